#include <doctest/doctest.h>

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "temporary_folder.h"

using namespace qwen;

namespace {

// The bytes of a file whose header is `header` and whose data section is `data_bytes` long.
std::string safetensors(std::string_view header, size_t data_bytes, std::optional<uint64_t> length = {}) {
  const uint64_t claimed = length.value_or(header.size());
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(claimed >> (8 * i) & 255);
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

std::string tensor(std::string_view name, std::string_view dtype, std::string_view shape,
                   std::string_view offsets) {
  return cat('"', name, R"(":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)", offsets,
             "}");
}

struct Outcome {
  Status status = Status::ok;
  std::string message;
};

Outcome outcome_of(const std::function<void()>& action) {
  try {
    action();
    return {};
  } catch (const Error& error) {
    return {error.status(), error.message()};
  }
}

void check_outcome(const Outcome& outcome, Status status, std::string_view fragment) {
  CAPTURE(outcome.message);
  CHECK(outcome.status == status);
  CHECK(outcome.message.find(fragment) != std::string::npos);
  for (const char c : outcome.message) CHECK(static_cast<unsigned char>(c) >= 0x20);
}

// Two matrices, a zero-size tensor between them, a scalar at an odd offset.
std::string sound_file() {
  return safetensors("{\"__metadata__\":{\"format\":\"pt\"}," + tensor("b", "BF16", "[2,3]", "[0,12]") + "," +
                         tensor("none", "F32", "[0,7]", "[12,12]") + "," +
                         tensor("a", "I8", "[3]", "[12,15]") + "," +
                         tensor("scalar", "F32", "[]", "[15,19]") + "}   ",
                     19);
}

}  // namespace

TEST_CASE("a sound safetensors file gives every tensor with its bytes, at any alignment") {
  const TemporaryFolder folder;
  const auto path = folder.write("model.safetensors", sound_file());
  for (const LoadMode mode : {LoadMode::mmap, LoadMode::read}) {
    const auto source = open_safetensors(path, mode);
    CHECK(source->names() == std::vector<std::string>{"a", "b", "none", "scalar"});
    CHECK(source->description() == path.string());
    const TensorView* b = source->find("b");
    REQUIRE(b);
    CHECK(b->dtype == DType::bf16);
    CHECK(b->shape == std::vector<int64_t>{2, 3});
    CHECK(b->bytes == 12);
    CHECK(b->source == path.string());
    CHECK(static_cast<int>(b->data[11]) == 11);
    const TensorView* none = source->find("none");
    REQUIRE(none);
    CHECK(none->bytes == 0);
    const TensorView* scalar = source->find("scalar");
    REQUIRE(scalar);
    CHECK(scalar->shape.empty());
    uint32_t bits = 0;
    std::memcpy(&bits, scalar->data, sizeof bits);
    CHECK(bits == 0x1211100F);
    CHECK(!source->find(""));
    CHECK(!source->find("c"));
    CHECK(!source->find("__metadata__"));
  }
}

TEST_CASE("a file without tensors is sound") {
  const TemporaryFolder folder;
  CHECK(open_safetensors(folder.write("f", safetensors("{}", 0)), LoadMode::mmap)->names().empty());
  const auto null_metadata = safetensors(R"({"__metadata__":null})", 0);
  CHECK(open_safetensors(folder.write("g", null_metadata), LoadMode::mmap)->names().empty());
}

TEST_CASE("every dtype has the size and the name of the format") {
  const TemporaryFolder folder;
  const std::vector<std::pair<std::string, size_t>> dtypes = {
      {"F64", 8},  {"I64", 8},     {"U64", 8},     {"F32", 4}, {"I32", 4},
      {"U32", 4},  {"F16", 2},     {"BF16", 2},    {"I16", 2}, {"U16", 2},
      {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I8", 1},  {"U8", 1}};
  for (const auto& [name, size] : dtypes) {
    const auto path = folder.write(
        "f", safetensors(cat("{", tensor("x", name, "[5]", cat("[0,", size * 5, "]")), "}"), size * 5));
    const auto source = open_safetensors(path, LoadMode::read);
    const TensorView* x = source->find("x");
    REQUIRE(x);
    CHECK(dtype_name(x->dtype) == name);
    CHECK(dtype_size(x->dtype) == size);
  }
}

TEST_CASE("a lying or truncated safetensors file is refused with its reason") {
  struct Case {
    const char* what;
    std::string file;
    Status status;
    const char* fragment;
  };
  const auto one = [](std::string_view dtype, std::string_view shape, std::string_view offsets,
                      size_t bytes) {
    return safetensors(cat("{", tensor("x", dtype, shape, offsets), "}"), bytes);
  };
  const auto entry = [](std::string_view text, size_t bytes = 4) {
    return safetensors(cat("{\"x\":", text, "}"), bytes);
  };
  constexpr Status broken = Status::invalid_file;
  const std::string two = cat(tensor("x", "I8", "[4]", "[0,4]"), ",", tensor("y", "I8", "[4]", "[4,8]"));
  const std::vector<Case> cases = {
      {"empty", "", broken, "has 0 bytes"},
      {"seven bytes", "1234567", broken, "has 7 bytes"},
      {"length only", safetensors("", 0), broken, "must begin with '{'"},
      {"length beyond the file", safetensors("{}", 0, 3), broken,
       "should be 3 bytes long, but only 2 follow"},
      {"length of 2^64 - 1", safetensors("{}", 0, UINT64_MAX), broken, "header length 18446744073709551615"},
      {"length just above the limit", safetensors("{}", 0, 100'000'001), broken, "limit of 100000000"},
      {"length at the limit, short file", safetensors("{}", 0, 100'000'000), broken, "cut short"},
      {"a GGUF file", std::string("GGUF\3\0\0\0\1\0\0\0 and more", 21), broken, "not a safetensors file"},
      {"a Git LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", broken,
       "git lfs pull"},
      {"a zip (pickle)", std::string("PK\3\4\24\0\0\0 archive/data.pkl", 25), broken,
       "not a safetensors file"},
      {"header not JSON", safetensors("{\"x\":", 0), broken, "not valid JSON"},
      {"header with bytes after the JSON", safetensors("{} {}", 0), broken, "not valid JSON"},
      {"header padded with zeros", safetensors(std::string_view("{}\0\0\0\0\0\0", 8), 0), broken,
       "not valid JSON"},
      {"text after a zero byte", safetensors(std::string_view("{}\0{\"x\":1}", 10), 0), broken,
       "not valid JSON"},
      {"header with leading space", safetensors(" {}", 0), broken, "must begin with '{'"},
      {"header an array", safetensors("[]", 0), broken, "must begin with '{'"},
      {"header not UTF-8", safetensors("{\"\xff\":1}", 0), broken, "not valid JSON"},
      {"deep nesting", safetensors("{\"x\":" + std::string(200000, '['), 0), broken, "not valid JSON"},
      {"deep nesting, closed",
       safetensors("{\"x\":" + std::string(200000, '[') + std::string(200000, ']') + "}", 0), broken,
       "an array"},
      {"metadata not an object", safetensors(R"({"__metadata__":[]})", 0), broken, "__metadata__"},
      {"metadata with a number", safetensors(R"({"__metadata__":{"a":1}})", 0), broken, "__metadata__"},
      {"metadata twice", safetensors(R"({"__metadata__":{},"__metadata__":{}})", 0), broken, "twice"},
      {"entry not an object", entry("7"), broken, "must be an object, it is a number"},
      {"no dtype", entry(R"({"shape":[4],"data_offsets":[0,4]})"), broken, "has no 'dtype'"},
      {"no shape", entry(R"({"dtype":"I8","data_offsets":[0,4]})"), broken, "has no 'shape'"},
      {"no offsets", entry(R"({"dtype":"I8","shape":[4]})"), broken, "has no 'data_offsets'"},
      {"dtype twice", entry(R"({"dtype":"I8","dtype":"U8","shape":[4],"data_offsets":[0,4]})"), broken,
       "'dtype' twice"},
      {"dtype a number", entry(R"({"dtype":8,"shape":[4],"data_offsets":[0,4]})"), broken,
       "must be a string"},
      {"dtype unknown", one("FLOAT", "[4]", "[0,4]", 4), broken,
       "dtype 'FLOAT' is unknown; it must be one of F32"},
      {"dtype in lower case", one("bf16", "[2]", "[0,4]", 4), broken, "'bf16' is unknown"},
      {"dtype of the format, not ours", one("F8_E8M0", "[4]", "[0,4]", 4), Status::unsupported, "'F8_E8M0'"},
      {"shape a number", one("I8", "4", "[0,4]", 4), broken, "'shape' must be an array"},
      {"shape null", one("I8", "null", "[0,4]", 4), broken, "'shape' must be an array of sizes, it is null"},
      {"negative size", one("I8", "[-4]", "[0,4]", 4), broken, "integers from 0"},
      {"two negative sizes", one("I8", "[-2,-2]", "[0,4]", 4), broken, "integers from 0"},
      {"fractional size", one("I8", "[4.0]", "[0,4]", 4), broken, "integers from 0"},
      {"size a string", one("I8", "[\"4\"]", "[0,4]", 4), broken, "integers from 0"},
      {"size 2^64", one("I8", "[18446744073709551616]", "[0,4]", 4), broken, "integers from 0"},
      {"size 2^63", one("I8", "[9223372036854775808]", "[0,4]", 4), broken, "integers from 0"},
      {"product wraps to 4", one("I8", "[4611686018427387905,4]", "[0,4]", 4), broken,
       "more than 2^64 bytes"},
      {"product wraps to 0", one("I8", "[4294967296,4294967296]", "[0,0]", 0), broken,
       "more than 2^64 bytes"},
      {"bytes wrap to 0", one("F32", "[4611686018427387904]", "[0,0]", 0), broken, "more than 2^64 bytes"},
      {"product wraps before a zero", one("I8", "[4294967296,4294967296,0]", "[0,0]", 0), broken, "2^64"},
      {"offsets a number", one("I8", "[4]", "4", 4), broken, "[begin, end]"},
      {"one offset", one("I8", "[4]", "[4]", 4), broken, "[begin, end]"},
      {"three offsets", one("I8", "[4]", "[0,4,8]", 4), broken, "[begin, end]"},
      {"negative offset", one("I8", "[4]", "[-4,0]", 4), broken, "non-negative"},
      {"fractional offset", one("I8", "[4]", "[0,4.0]", 4), broken, "non-negative"},
      {"offset 2^64", one("I8", "[4]", "[0,18446744073709551616]", 4), broken, "non-negative"},
      {"end before begin", one("I8", "[4]", "[4,0]", 4), broken, "begins at 4 and ends before that, at 0"},
      {"offsets near 2^64", one("I8", "[4]", "[18446744073709551611,18446744073709551615]", 4), broken,
       "only 4 bytes"},
      {"data cut short", one("I8", "[4]", "[0,4]", 3), broken, "cut short"},
      {"size below the offsets", one("I8", "[3]", "[0,4]", 4), broken,
       "is 3 bytes, but its data_offsets [0, 4] hold 4"},
      {"size above the offsets", one("F32", "[2]", "[0,4]", 4), broken, "F32 of shape [2] is 8 bytes"},
      {"scalar of no bytes", one("F32", "[]", "[0,0]", 0), broken, "F32 of shape [] is 4 bytes"},
      {"hole before", one("I8", "[4]", "[4,8]", 8), broken, "bytes 0 to 4 before it belong to no tensor"},
      {"hole between",
       safetensors(cat("{", tensor("x", "I8", "[4]", "[0,4]"), ",", tensor("y", "I8", "[4]", "[5,9]"), "}"),
                   9),
       broken, "tensor 'y': its data begins at 5, but bytes 4 to 5"},
      {"bytes behind", safetensors(cat("{", two, "}"), 9), broken, "the last 1 bytes belong to no tensor"},
      {"data but no tensor", safetensors("{}", 1), broken, "the last 1 bytes belong to no tensor"},
      {"overlap",
       safetensors(cat("{", tensor("x", "I8", "[4]", "[0,4]"), ",", tensor("y", "I8", "[4]", "[3,7]"), "}"),
                   7),
       broken, "tensor 'y': its data begins at 3, inside tensor 'x', which ends at 4"},
      {"the same bytes twice",
       safetensors(cat("{", tensor("x", "I8", "[4]", "[0,4]"), ",", tensor("y", "I8", "[4]", "[0,4]"), "}"),
                   4),
       broken, "overlap"},
      {"zero-size tensor inside another",
       safetensors(cat("{", tensor("x", "I8", "[4]", "[0,4]"), ",", tensor("y", "I8", "[0]", "[2,2]"), "}"),
                   4),
       broken, "overlap"},
      {"name twice",
       safetensors(cat("{", tensor("x", "I8", "[4]", "[0,4]"), ",", tensor("x", "I8", "[4]", "[4,8]"), "}"),
                   8),
       broken, "tensor 'x': is in the header twice"},
      {"name with control bytes",
       safetensors(cat("{", tensor("\\u0000\\u001b[2J\\n", "I8", "[3]", "[0,4]"), "}"), 4), broken,
       "tensor '\\x00\\x1b[2J\\x0a'"},
  };
  const TemporaryFolder folder;
  for (const auto& [what, file, status, fragment] : cases) {
    CAPTURE(what);
    const auto path = folder.write("model.safetensors", file);
    const Outcome outcome = outcome_of([&] { open_safetensors(path, LoadMode::mmap); });
    check_outcome(outcome, status, fragment);
    CHECK(outcome.message.find("model.safetensors: ") != std::string::npos);
  }
  CHECK(cases.size() >= 40);
}

TEST_CASE("no truncation of a sound file is accepted") {
  const TemporaryFolder folder;
  const std::string sound = sound_file();
  for (size_t size = 0; size < sound.size(); ++size) {
    CAPTURE(size);
    const auto path = folder.write("f", sound.substr(0, size));
    CHECK(outcome_of([&] { open_safetensors(path, LoadMode::read); }).status == Status::invalid_file);
  }
}

TEST_CASE("flipped bytes give an error or tensors that lie inside the file, never more") {
  const TemporaryFolder folder;
  const std::string sound = sound_file();
  std::mt19937 random(20250611);
  size_t accepted = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string damaged = sound;
    for (unsigned flips = 1 + random() % 3; flips > 0; --flips) {
      const size_t at = random() % damaged.size();
      // Half of the damage keeps to characters that JSON uses, so that more of it survives the parser.
      damaged[at] = random() % 2 ? "0123456789[]{},:\"-e"[random() % 19] : static_cast<char>(random());
    }
    if (random() % 8 == 0) damaged.resize(random() % damaged.size());
    const auto path = folder.write("f", damaged);
    const Outcome outcome = outcome_of([&] {
      const auto source = open_safetensors(path, LoadMode::read);
      unsigned sum = 0;
      for (const auto& name : source->names()) {
        const TensorView* view = source->find(name);
        REQUIRE(view);
        for (size_t i = 0; i < view->bytes; ++i) sum += static_cast<unsigned>(view->data[i]);  // ASan watches
      }
      CHECK(sum < 255 * 19);
      ++accepted;
    });
    CHECK((outcome.status == Status::ok || outcome.status == Status::invalid_file ||
           outcome.status == Status::unsupported));
  }
  CHECK(accepted > 0);  // damage to names and data is not detectable: the fuzz reaches the far end
}

namespace {

constexpr const char* kIndexName = "model.safetensors.index.json";

// Two shards, "a" in the first, "b" and "c" in the second, and the index given.
Outcome open_shards(const TemporaryFolder& folder, std::string_view index) {
  folder.write("s1.safetensors", safetensors(cat("{", tensor("a", "I8", "[4]", "[0,4]"), "}"), 4));
  folder.write("s2.safetensors", safetensors(cat("{", tensor("b", "I8", "[4]", "[0,4]"), ",",
                                                 tensor("c", "I8", "[1]", "[4,5]"), "}"),
                                             5));
  const auto path = folder.write(kIndexName, index);
  return outcome_of([&] { open_sharded_safetensors(path, LoadMode::mmap); });
}

}  // namespace

TEST_CASE("shards are one set of tensors") {
  const TemporaryFolder folder;
  constexpr auto index =
      R"({"metadata":{"total_size":9},"weight_map":{"c":"s2.safetensors","a":"s1.safetensors","b":"s2.safetensors"}})";
  CHECK(open_shards(folder, index).status == Status::ok);
  const auto source = open_sharded_safetensors(folder.path() / kIndexName, LoadMode::mmap);
  CHECK(source->names() == std::vector<std::string>{"a", "b", "c"});
  const TensorView* c = source->find("c");
  REQUIRE(c);
  CHECK(c->source == (folder.path() / "s2.safetensors").string());
  CHECK(static_cast<int>(*c->data) == 4);
}

TEST_CASE("an index that does not match its shards is refused with its reason") {
  struct Case {
    const char* index;
    Status status;
    const char* fragment;
  };
  constexpr Status broken = Status::invalid_file;
  const std::vector<Case> cases = {
      {"", broken, "not valid JSON"},
      {"[]", broken, "must be a JSON object"},
      {"{}", broken, "'weight_map' is missing"},
      {R"({"weight_map":null})", broken, "'weight_map' is null"},
      {R"({"weight_map":{}})", broken, "lists no tensor"},
      {R"({"weight_map":{"a":"s1.safetensors"},"weight_map":{"a":"s1.safetensors"}})", broken,
       "is there twice"},
      {R"({"weight_map":{"a":1}})", broken, "tensor 'a' must be a string, it is a number"},
      {R"({"weight_map":{"a":"../s1.safetensors"}})", broken,
       "'../s1.safetensors'; a shard must be the plain name"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", broken, "plain name"},
      {R"({"weight_map":{"a":"sub/s1.safetensors"}})", broken, "plain name"},
      {R"({"weight_map":{"a":"sub\\s1.safetensors"}})", broken, "plain name"},
      {R"({"weight_map":{"a":".."}})", broken, "plain name"},
      {R"({"weight_map":{"a":""}})", broken, "plain name"},
      {R"({"weight_map":{"a":"s1\u0000.safetensors"}})", broken, "'s1\\x00.safetensors'"},
      {R"({"weight_map":{"a":"pytorch_model-00001-of-00002.bin"}})", broken, ".safetensors file"},
      {R"({"weight_map":{"a":"s1.safetensors","a":"s1.safetensors"}})", broken,
       "tensor 'a' is in 'weight_map' twice"},
      {R"({"weight_map":{"a":"s1.safetensors","b":"s3.safetensors","c":"s4.safetensors"}})",
       Status::not_found, "shard 's3.safetensors' is not in the folder (2 of 3 shards are missing)"},
      {R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}})", broken, "tensor 'c' is not listed"},
      {R"({"weight_map":{"a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors"}})", broken,
       "tensor 'b' is here, but the 'weight_map'"},
      {R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors","c":"s2.safetensors","d":"s2.safetensors"}})",
       broken, "tensor 'd' is said to be in 's2.safetensors', which does not hold it"},
      {R"({"weight_map":{"a":"s1.safetensors","A":"s1.safetensors"}})", broken,
       "tensor 'A' is said to be in"},
  };
  const TemporaryFolder folder;
  for (const auto& [index, status, fragment] : cases) {
    CAPTURE(index);
    check_outcome(open_shards(folder, index), status, fragment);
  }
}

TEST_CASE("a name in two shards is refused") {
  const TemporaryFolder folder;
  folder.write("s1.safetensors", safetensors(cat("{", tensor("a", "I8", "[4]", "[0,4]"), "}"), 4));
  folder.write("s2.safetensors", safetensors(cat("{", tensor("a", "I8", "[4]", "[0,4]"), ",",
                                                 tensor("b", "I8", "[1]", "[4,5]"), "}"),
                                             5));
  const auto index =
      folder.write(kIndexName, R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}})");
  check_outcome(outcome_of([&] { open_sharded_safetensors(index, LoadMode::mmap); }), Status::invalid_file,
                "tensor 'a' is here, but");
}

TEST_CASE("tens of thousands of tensors are found by name") {
  constexpr int kCount = 40000;
  std::string header = "{";
  for (int i = 0; i < kCount; ++i)
    header += cat(i ? "," : "", tensor(cat("model.layers.", i % 94, ".mlp.experts.", i, ".weight"), "I8",
                                       "[1]", cat("[", i, ",", i + 1, "]")));
  const TemporaryFolder folder;
  const auto source = open_safetensors(folder.write("f", safetensors(header + "}", kCount)), LoadMode::mmap);
  for (int i = 0; i < kCount; ++i) {
    const TensorView* view = source->find(cat("model.layers.", i % 94, ".mlp.experts.", i, ".weight"));
    REQUIRE(view);
    REQUIRE(static_cast<int>(*view->data) == i % 256);
  }
}
