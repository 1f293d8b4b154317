/* A host without stdin, stdout and stderr, as a daemon may be: nothing of the library takes their places to be written into by
 * whoever prints, and nothing is printed. closed_streams MODEL FILE */
#include <fcntl.h>
#include <unistd.h>

#include "guest.h"

int host_main(int argc, char **argv) {
  if (argc != 3) return 2;
  const int kept = fcntl(1, F_DUPFD, 10);
  close(0), close(1), close(2);
  qwen_engine *engine = create(argv[1]);
  qwen_prompt *prompt = token_prompt();
  qwen_options *options = request_options(16);
  qwen_queue *queue = NULL;
  qwen_request *request = NULL;
  qwen_engine *none = NULL;
  MUST(qwen_queue_new(&queue, &error));
  const int descriptor = qwen_queue_fd(queue);
  if (descriptor <= 2) return 3;
  MUST(qwen_submit(engine, prompt, options, queue, 0, &request, &error));
  if (write(1, "lost text", 9) >= 0 || write(2, "lost text", 9) >= 0) return 4; /* nobody has opened them */
  if (open(argv[2], O_CREAT | O_RDWR, 0600) != 0 || dup(0) != 1 || dup(0) != 2) return 5; /* the host does, later */
  if (qwen_create("/nowhere", NULL, &none, NULL) != QWEN_ERR_NOT_FOUND) return 6;
  int events = 0;
  for (int done = 0; !done;) {
    size_t count = 0;
    MUST(qwen_queue_next(queue, -1, &count, &error));
    for (size_t i = 0; i < count; ++i, ++events) {
      qwen_event event = {.struct_size = sizeof event};
      MUST(qwen_queue_event(queue, i, &event, &error));
      done |= event.type == QWEN_EVENT_DONE;
    }
  }
  qwen_request_free(request);
  qwen_queue_free(queue);
  qwen_destroy(engine);
  qwen_options_free(options);
  qwen_prompt_free(prompt);
  if (lseek(0, 0, SEEK_END) != 0) return 7; /* not a byte in what is stdout and stderr now */
  if (dprintf(kept, "%d events\n", events) < 0) return 8;
  _exit(0);
}
