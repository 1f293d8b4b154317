#include "engine/loaded_model.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/log.h"
#include "base/task.h"
#include "engine/cache_sizes.h"
#include "text/tokenizer_gguf.h"

namespace qwen {
namespace {

// Reading files is progress, and then loading what they hold is, on one device or, anew, on another: it never goes back.
std::function<void(double)> progress_callback(const Options& options) {
  const HostCallback callback = options.callback("progress");
  if (!callback.function) return [](double) {};
  return [callback, reached = 0.0](double fraction) mutable {
    const auto function =
        reinterpret_cast<int32_t (*)(double, void*)>(callback.function);  // qwen_progress_fn
    reached = std::max(reached, fraction);
    if (function(reached, callback.user.get()) != 0)
      fail(Status::cancelled, "loading was cancelled by the host");
  };
}

// How a host hears of the loading, and what comes before it (load_model()).
struct Loading {
  std::function<void(double)> progress;
  std::function<void()> before_reading = nullptr;
};

// Weights in a device's memory. with_room: which has to have room for an engine's cache besides.
std::shared_ptr<const Model> load(const ModelConfig& config, const TensorSource& tensors,
                                  const Options& options, const std::string& device, const Loading& loading,
                                  bool with_room = false) {
  CpuOptions cpu = resolve_cpu_options(options);
  cpu.threads = 1;  // loading maps, it does not compute; each engine makes its own threads
  const auto backend = create_backend(cpu, options, device);
  ModelParts parts{.mtp_head = options.i64_or_default("mtp") != 0};
  if (parts.mtp_head && !tensors.find("mtp.fc.weight"))
    fail(Status::unsupported, tensors.description(),
         ": option 'mtp' is 1, but the checkpoint has no multi-token-prediction head that this version knows "
         "(tensor "
         "'mtp.fc.weight')");
  auto model = load_model(config, parts, tensors, *backend, loading.progress, loading.before_reading);
  if (with_room) check_cache_room(options, *model, *backend);
  return model;
}

// Where 'auto' has tried a GPU: what that cannot do, has no room for, or does wrong.
bool cpu_may_do(const Error& failure) {
  return failure.status() == Status::unsupported || failure.status() == Status::out_of_memory ||
         failure.status() == Status::internal;
}

// On the device that was asked for. 'auto': on the first GPU, unless it or this version cannot run the model; then on the CPU.
void load_weights(const ModelConfig& config, const Options& options, const Loading& loading,
                  LoadedModel& loaded) {
  const auto load_on = [&](const std::string& device, bool with_room = false) {
    loaded.model = load(config, *loaded.tensors, options, device, loading, with_room);
    loaded.device = device;
  };
  const std::string device = resolve_device(options);
  if (device != "auto") return load_on(device);
  GpuOffer gpu = find_gpu();
  if (gpu.device >= 0) {
    try {
      load_on(cat("cuda:", gpu.device), true);
      return log(LogLevel::info, "device 'auto' is ", loaded.device, ", ", gpu.text);
    } catch (const Error& error) {
      if (!cpu_may_do(error)) throw;
      gpu = {.text = error.message(), .level = LogLevel::warning};
    }
  }
  load_on("cpu");
  log(gpu.level, "device 'auto' is the CPU: ", gpu.text);
}

template <class Load>
void read_chat_template(LoadedModel& loaded, Load load_template) {
  try {
    loaded.chat_template = load_template();
  } catch (const Error& error) {
    log(LogLevel::warning, error.message());
    loaded.chat_template_error = error;
  }
}

// What names the tokenizer and the configuration, for the message.
void check_tokenizer_size(const LoadedModel& loaded, std::string_view tokenizer,
                          std::string_view configuration) {
  const int64_t vocab_size = loaded.model->config().vocab_size;
  if (loaded.tokenizer->size() > vocab_size)
    fail(Status::invalid_file, tokenizer, ": holds token ids up to ", loaded.tokenizer->size() - 1, ", but ",
         configuration, " says vocab_size ", vocab_size);
}

// A tokenizer and where it stands, for the chat template that belongs to it: a GGUF file, or a folder with tokenizer.json.
struct OpenedTokenizer {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const GgufFile> gguf;
  std::filesystem::path folder;
};

OpenedTokenizer open_tokenizer(std::shared_ptr<const GgufFile> gguf) {
  return {Tokenizer::open(*gguf), gguf, {}};
}

// path: a tokenizer.json, its folder or a GGUF file.
OpenedTokenizer open_tokenizer(const std::filesystem::path& path) {
  const bool is_folder = std::filesystem::is_directory(path);
  const bool has_json = is_folder && std::filesystem::exists(path / "tokenizer.json");
  if (const auto gguf = has_json ? std::nullopt : find_gguf(path))
    return open_tokenizer(std::make_shared<const GgufFile>(*gguf, LoadMode::mmap));
  const auto folder = is_folder ? path : path.parent_path();
  return {Tokenizer::open(path), nullptr, folder.empty() ? "." : folder};
}

// Checks it against the model, and reads the chat template.
void take_tokenizer(OpenedTokenizer opened, LoadedModel& loaded) {
  loaded.tokenizer = std::move(opened.tokenizer);
  if (opened.gguf) {
    read_chat_template(loaded, [&] { return load_chat_template(*opened.gguf); });
    check_tokenizer_size(loaded, opened.gguf->source(), "tensor 'token_embd.weight'");
  } else {
    read_chat_template(loaded, [&] { return load_chat_template(opened.folder); });
    check_tokenizer_size(loaded, (opened.folder / "tokenizer.json").string(), "config.json");
  }
}

}  // namespace

CpuOptions resolve_cpu_options(const Options& options) {
  CpuOptions cpu;
  cpu.precision = options.str_or_default("dtype") == "f32" ? Precision::f32 : Precision::bf16;
  cpu.threads = static_cast<int>(options.i64_or_default("threads"));
  cpu.isa = options.str_or_default("cpu_isa");
  return cpu;
}

std::string resolve_device(const Options& options) {
  const std::string device = options.str_or_default("device");
  return device == "cuda" ? "cuda:0" : device;
}

namespace {

constexpr std::string_view kCuda = "cuda:";

CudaOptions cuda_options(const CpuOptions& cpu, const Options& options, std::string_view device) {
  CudaOptions cuda{.precision = cpu.precision,
                   .threads = static_cast<int>(options.i64_or_default("threads")),
                   .check = options.i64_or_default("gpu_check") != 0,
                   .strict = options.i64_or_default("strict") != 0,
                   .dependent_launches = options.i64_or_default("cuda_dependent_launch") != 0};
  std::from_chars(device.data() + kCuda.size(), device.data() + device.size(), cuda.device);
  return cuda;
}

}  // namespace

std::unique_ptr<Backend> create_backend(const CpuOptions& cpu, const Options& options,
                                        std::string_view device) {
  if (!device.starts_with(kCuda)) return create_cpu_backend(cpu);
  return create_cuda_backend(cuda_options(cpu, options, device));
}

MachineLimits measure_machine(const Options& options) {
  const CpuOptions cpu = resolve_cpu_options(options);
  const std::string device = resolve_device(options);
  if (device.starts_with(kCuda)) return measure_machine(cuda_options(cpu, options, device));
  if (const GpuOffer gpu = device == "auto" ? find_gpu() : GpuOffer(); gpu.device >= 0) {
    try {
      return measure_machine(cuda_options(cpu, options, cat(kCuda, gpu.device)));
    } catch (const Error& error) {
      if (!cpu_may_do(error)) throw;
    }
  }
  return measure_machine(cpu);
}

std::shared_ptr<const LoadedModel> open_model(const std::filesystem::path& path, const Options& options) {
  const LoadMode mode = options.str_or_default("load") == "read" ? LoadMode::read : LoadMode::mmap;
  Checkpoint checkpoint = open_checkpoint(path, mode);
  auto loaded = std::make_shared<LoadedModel>();
  loaded->path = path.string();
  loaded->generation = std::move(checkpoint.generation);
  loaded->precision = resolve_cpu_options(options).precision;
  loaded->tensors = std::move(checkpoint.tensors);
  std::optional<Task<OpenedTokenizer>> tokenizer;
  const auto open = [&](auto place) {
    tokenizer.emplace("qwen-load", [place] { return open_tokenizer(place); });
  };
  if (const auto other = options.str("tokenizer")) {
    open(std::filesystem::path(*other));
  } else if (checkpoint.gguf) {
    if (has_gguf_tokenizer(*checkpoint.gguf)) open(checkpoint.gguf);
  } else if (std::filesystem::exists(path / "tokenizer.json")) {
    open(path);
  }
  Loading loading{.progress = progress_callback(options)};
  // Before anything reads here and there in the files. The tokenizer of a published model takes thirty milliseconds.
  loading.before_reading = [&] {
    loaded->tensors->map_ahead([&](double fraction, bool from_disk) {
      if (from_disk) loading.progress(fraction);
      return from_disk || (tokenizer && tokenizer->under_way());
    });
  };
  load_weights(checkpoint.config, options, loading, *loaded);
  if (tokenizer) take_tokenizer(tokenizer->get(), *loaded);
  log(LogLevel::info, "opened ", loaded->path, ": ", checkpoint.config.architecture, ", ",
      loaded->model->parameters(), " parameters, ", loaded->model->weight_bytes(), " bytes of weights");
  return loaded;
}

std::shared_ptr<const LoadedModel> open_model(const ModelConfig& config,
                                              std::shared_ptr<const TensorSource> tensors,
                                              std::shared_ptr<const Tokenizer> tokenizer,
                                              const Options& options) {
  auto loaded = std::make_shared<LoadedModel>();
  loaded->precision = resolve_cpu_options(options).precision;
  loaded->tensors = std::move(tensors);
  load_weights(config, options, {.progress = progress_callback(options)}, *loaded);
  if (tokenizer) {
    loaded->tokenizer = std::move(tokenizer);
  } else if (const auto path = options.str("tokenizer")) {
    take_tokenizer(open_tokenizer(std::filesystem::path(*path)), *loaded);
  }
  return loaded;
}

}  // namespace qwen
