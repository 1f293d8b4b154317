// One engine inside a server: a thread per connection, all of them share the engine, which computes their requests together.
//
//     c++ -std=c++17 -pthread embed_in_server.cpp $(pkg-config --cflags --libs qwen) -o embed_in_server
//     ./embed_in_server path/to/Qwen3-0.6B 7000 &
//     nc 127.0.0.1 7000
//
// A client sends one question per line. The answer comes as it is generated and ends with the byte EOT (0x04). A client that
// closes its end has its request cancelled. SIGTERM or Ctrl-C ends the server: answers under way are finished, no more begun.
// This is no HTTP server, to stay in one file; with a web framework, `Connection::serve` is what goes into its handler.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <list>
#include <qwen.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>

namespace {

constexpr char kEndOfAnswer = '\x04';
constexpr size_t kLongestQuestion = 1 << 20;  // bytes

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {
    if (number_ < 0) throw std::system_error(errno, std::generic_category());
  }
  ~Descriptor() { close(number_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return number_; }

 private:
  int number_;
};

// Whether all of it could be sent; false: the client has gone, or takes nothing any more.
bool send_all(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

class Connection {
 public:
  Connection(qwen::Engine& engine, int socket)
      : engine_(engine), socket_(socket), thread_([this] {
          answer_lines();
          shutdown(socket_.get(), SHUT_RDWR);
          over_ = true;
        }) {}
  ~Connection() { thread_.join(); }

  bool over() const { return over_; }
  // Begins no further answer. The thread, where it waits for a question, finds the end of input.
  void close() {
    closing_ = true;
    shutdown(socket_.get(), SHUT_RD);
  }

 private:
  void answer_lines() {
    std::string received;
    char bytes[4096];
    while (received.size() < kLongestQuestion) {
      const ssize_t count = recv(socket_.get(), bytes, sizeof bytes, 0);
      if (count <= 0) return;
      received.append(bytes, static_cast<size_t>(count));
      for (size_t end; (end = received.find('\n')) != std::string::npos; received.erase(0, end + 1))
        if (closing_ || !serve(received.substr(0, end))) return;
    }
  }

  // Streams one answer; whether the client is still there. To return early destroys the request, which cancels it.
  bool serve(const std::string& question) {
    try {
      qwen::Request request = engine_.stream(qwen::Prompt::from_messages({{"user", question}}));
      while (!request.done()) {
        const qwen::Event* event = request.next(std::chrono::milliseconds(100));
        if (client_has_gone()) return false;
        if (event && !event->is_reasoning() && !send_all(socket_.get(), event->text())) return false;
      }
    } catch (const qwen::Error& error) {  // a question that is too long, say: the next may be better
      if (!send_all(socket_.get(), std::string("error: ") + error.what())) return false;
    }
    return send_all(socket_.get(), {&kEndOfAnswer, 1});
  }

  bool client_has_gone() const {
    pollfd socket{socket_.get(), POLLRDHUP, 0};
    return !closing_ && poll(&socket, 1, 0) > 0;  // close() above looks the same from here
  }

  qwen::Engine& engine_;
  Descriptor socket_;
  std::atomic<bool> closing_{false}, over_{false};
  std::thread thread_;  // last: it uses the others
};

void listen_on(int listener, uint16_t port) {
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const timeval patience{
      10, 0};  // connections inherit it: a client that reads nothing must not hold up the end for ever
  setsockopt(listener, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  socklen_t length = sizeof address;
  auto* where = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, where, length) != 0 || listen(listener, SOMAXCONN) != 0 ||
      getsockname(listener, where, &length) != 0)
    throw std::system_error(errno, std::generic_category(), "port " + std::to_string(port));
  std::cout << "listening on 127.0.0.1:" << ntohs(address.sin_port) << std::endl;
}

// Accepts connections until a signal arrives, then waits for the answers under way.
void run(qwen::Engine& engine, int listener, int signals) {
  std::list<Connection> connections;
  pollfd waiting[] = {{listener, POLLIN, 0}, {signals, POLLIN, 0}};
  while (poll(waiting, 2, -1) >= 0 && !waiting[1].revents) {
    const int client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (client >= 0) connections.emplace_back(engine, client);
    connections.remove_if([](const Connection& connection) { return connection.over(); });
  }
  for (Connection& connection : connections) connection.close();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: " << argv[0] << " MODEL_FOLDER PORT (0: any that is free)\n";
    return 2;
  }
  try {
    // The signals are read from a descriptor by the main thread, so every thread has to block them: before the first starts.
    sigset_t ending;
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ending, nullptr);
    const Descriptor signals(signalfd(-1, &ending, SFD_CLOEXEC));

    qwen::Engine engine(argv[1]);
    const Descriptor listener(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    listen_on(listener.get(), static_cast<uint16_t>(std::atoi(argv[2])));
    run(engine, listener.get(), signals.get());
    const qwen::EngineStats stats = engine.stats();
    std::cout << "served " << stats.finished << " requests, " << stats.generated_tokens << " tokens"
              << std::endl;
  } catch (const qwen::Error& error) {
    std::cerr << error.status_name() << ": " << error.what() << "\n";
    return 1;
  } catch (const std::system_error& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
