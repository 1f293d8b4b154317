// The one table of options: every engine option and sampling parameter of the product is a row here. The C setters, the
// environment, Python's keyword arguments and the command line are all read from it, so they cannot disagree.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace qwen {

// The numbers are those of QWEN_OPTION_… and QWEN_SCOPE_… in qwen.h (asserted in api/).
enum class OptionType : int32_t {
  i64 = 1,
  f64 = 2,
  str = 3,
  i32_array = 4,
  str_array = 5,
  bias = 6,
  callback = 7
};
enum class OptionScope : int32_t { engine = 1, request = 2 };

struct OptionRow {
  const char* key;
  OptionType type;
  OptionScope scope;
  bool has_bounds;
  double minimum, maximum;   // inclusive
  const char* default_text;  // "": no default of its own
  const char* choices;       // allowed texts separated by '|', "": any; an N behind a colon is a number
  const char* unit;
  const char* help;
};
std::span<const OptionRow> option_table();

using TokenBias = std::vector<std::pair<int32_t, float>>;

// A host's function with its context; destroy runs when the last copy goes.
struct HostCallback {
  void (*function)() = nullptr;
  std::shared_ptr<void> user;
};

// Checked values by key. Every setter throws Error(invalid_argument) naming the key, the value and what is allowed.
// Copying is cheap enough to be done at every submit.
class Options {
 public:
  void set(std::string_view key, int64_t value);
  void set(std::string_view key, double value);
  void set(std::string_view key, std::string_view text);
  void set(std::string_view key, std::vector<int32_t> values);
  void set(std::string_view key, std::vector<std::string> texts);
  void set(std::string_view key, TokenBias biases);
  void set(std::string_view key, HostCallback callback);

  // Throws Error(invalid_argument) naming an option that was set but belongs to the other scope.
  void check_scope(OptionScope scope) const;

  // Set here > environment variable QWEN_<KEY> (engine scope only) > nullopt. Throws Error for a bad environment value.
  std::optional<int64_t> i64(std::string_view key) const;
  std::optional<double> f64(std::string_view key) const;
  std::optional<std::string> str(std::string_view key) const;
  std::vector<int32_t> i32_array(std::string_view key) const;
  std::vector<std::string> str_array(std::string_view key) const;
  TokenBias bias(std::string_view key) const;
  HostCallback callback(std::string_view key) const;

  // The same with the table's default.
  int64_t i64_or_default(std::string_view key) const;
  double f64_or_default(std::string_view key) const;
  std::string str_or_default(std::string_view key) const;

 private:
  using Value = std::variant<int64_t, double, std::string, std::vector<int32_t>, std::vector<std::string>,
                             TokenBias, HostCallback>;
  template <class T>
  const T* find(std::string_view key) const;

  std::map<std::string, Value, std::less<>> values_;
};

}  // namespace qwen
