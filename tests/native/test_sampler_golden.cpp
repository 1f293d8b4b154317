// The sampler's distributions beside those of Hugging Face transformers: tests/data/sampler/golden.json, which
// make_golden.py, beside it, wrote and explains.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "base/json.h"
#include "engine/sampler.h"
#include "host_sampler.h"

using namespace qwen;
using qwen::test::Sampler;

namespace {

const char* const kFile = "golden.json";

JsonDocument read_golden() {
  std::ifstream file(std::string(QWEN_TEST_DATA) + "/sampler/" + kFile);
  REQUIRE(file.is_open());
  return parse_json(std::string(std::istreambuf_iterator<char>(file), {}), kFile);
}

template <class Number>
std::vector<Number> numbers(const JsonValue& object, const char* key) {
  std::vector<Number> values;
  if (const JsonValue* array = json_find(object, key))
    for (const JsonValue& value : array->GetArray()) values.push_back(static_cast<Number>(value.GetDouble()));
  return values;
}

// Every key must be known, so that no step can go untested by a slip of the pen.
SamplingParams read_params(const JsonValue& object) {
  SamplingParams params;
  for (const auto& [name, value] : object.GetObject()) {
    const std::string key(json_text(name));
    if (key == "temperature")
      params.temperature = value.GetDouble();
    else if (key == "top_k")
      params.top_k = value.GetInt64();
    else if (key == "top_p")
      params.top_p = value.GetDouble();
    else if (key == "min_p")
      params.min_p = value.GetDouble();
    else if (key == "repetition_penalty")
      params.repetition_penalty = value.GetDouble();
    else if (key == "presence_penalty")
      params.presence_penalty = value.GetDouble();
    else if (key == "frequency_penalty")
      params.frequency_penalty = value.GetDouble();
    else if (key == "penalty_window")
      params.penalty_window = value.GetInt64();
    else if (key == "min_tokens")
      params.min_tokens = value.GetInt64();
    else if (key == "eos_token_ids")
      params.eos_token_ids = numbers<int32_t>(object, "eos_token_ids");
    else if (key == "stop_token_ids")
      params.stop_token_ids = numbers<int32_t>(object, "stop_token_ids");
    else if (key == "logit_bias")
      for (const JsonValue& pair : value.GetArray())
        params.logit_bias.emplace_back(pair[0].GetInt(), static_cast<float>(pair[1].GetDouble()));
    else
      FAIL("unknown parameter ", key);
  }
  return params;
}

// "" when the tokens that may be drawn and their probabilities are the expected ones.
std::string difference(const Distribution& ours, const JsonValue& expected) {
  std::map<int32_t, double> probability;
  for (const Candidate& candidate : ours.kept) probability[candidate.id] = candidate.weight / ours.total;
  const auto ids = numbers<int32_t>(expected, "ids");
  const auto probabilities = numbers<double>(expected, "probabilities");
  if (ids.size() != ours.kept.size()) return cat(ours.kept.size(), " tokens kept, not ", ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!probability.count(ids[i])) return cat("token ", ids[i], " is not kept");
    if (!(std::fabs(probability[ids[i]] - probabilities[i]) <= 1e-5))
      return cat("token ", ids[i], " has ", probability[ids[i]], ", not ", probabilities[i]);
  }
  return "";
}

}  // namespace

TEST_CASE("the sampler's distributions are those of transformers") {
  const JsonDocument golden = read_golden();
  const JsonValue& cases = golden["cases"];
  REQUIRE(cases.Size() >= 150);
  Sampler sampler;
  int float32_decides = 0;
  for (const JsonValue& item : cases.GetArray()) {
    const std::string row(json_text(item["row"]));
    auto logits = numbers<float>(golden["rows"], row.c_str());
    const auto prompt = numbers<int32_t>(item, "prompt"), generated = numbers<int32_t>(item, "generated");
    const Distribution ours =
        sampler.distribution(logits, read_params(item["parameters"]), prompt, generated);
    // Where the rounding of float32 inside transformers decides, the same steps in float64 are the reference.
    const JsonValue* exact = json_find(item, "exact");
    float32_decides += exact != nullptr;
    INFO("case ", &item - cases.Begin() + 1, ", row '", row, "'");
    CHECK(difference(ours, exact ? *exact : item) == "");
  }
  CHECK(float32_decides == 16);  // of the row near 10,000, and two at a border; no other is excused
}
