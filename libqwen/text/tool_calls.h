// Tool calls in the answer of a Qwen model, taken out of the text while it arrives. Two formats, told apart per call by
// what follows the tag:
//
//   <tool_call>                          Qwen2.5, Qwen3
//   {"name": "f", "arguments": {…}}
//   </tool_call>
//
//   <tool_call>                          Qwen3-Coder, Qwen3.5 and later; some leave out the <tool_call> tags
//   <function=f>
//   <parameter=key>
//   value, any text
//   </parameter>
//   </function>
//   </tool_call>
//
// What is not a call is text. White space next to a call, before and behind it, belongs to the call and is dropped; all
// other text comes out unchanged: without a call, the pieces add up to the input. The result does not depend on how the
// text was cut. Time is linear in the text: a block that turns out not to be a call is text up to where that was seen,
// and reading goes on there; what lies inside it is not searched again.
//
// A JSON call is the object and then </tool_call>; the tag may be missing where the text ends (a host's own stop string,
// or the limit on tokens). Tags inside the object's strings are text. The block is not a call once it cannot be
// one: anything else behind the tag or behind the object, broken JSON, no name, arguments that are no object.
//
// An XML call ends with </function>; a </tool_call> behind it is dropped with the white space. A value ends at the first
// </parameter> that is followed by <parameter=…> or </function>, with nothing but white space between. All other
// tags in it are text, and so is a whole call quoted in it: a <parameter= at the beginning of a line opens an inner
// parameter, which takes the next </parameter> for itself. (The price: a value with an unpaired <parameter= at the
// beginning of a line, or a forgotten </parameter>, makes the rest of the text a block that never ends, so it is text;
// the other way would pass on a value that is cut short.) One line break after <parameter=key> and one before
// </parameter> are not part of the value.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "text/tool_schemas.h"

namespace qwen {

struct ToolCall {
  std::string name;  // not empty
  // JSON text of an object, without white space between its parts; keys in the order in which the model wrote them.
  std::string arguments;
};

class ToolCallParser {
 public:
  using Piece = std::variant<std::string, ToolCall>;  // text: never empty, nor behind text in one list
  using Pieces = std::vector<Piece>;

  // tools_json: as ToolSchemas, which gives XML values their types. Throws Error(invalid_argument).
  explicit ToolCallParser(std::string_view tools_json) : schemas_(tools_json) {}

  // What is certain now, in its order: text and calls. Code points that came whole leave whole. Text waits only while it
  // is white space at the end (a call may follow), or the beginning of a tag, or inside a block.
  Pieces push(std::string_view text);
  // The text ends here: what is held, as a call if its object is complete, else as text. The object is ready for a new
  // text.
  Pieces finish();

 private:
  enum class State {
    text,
    behind_call,      // white space and one </tool_call> are passed over
    opened,           // behind <tool_call>
    json,             // inside the object
    json_end,         // behind the object
    function_name,    // behind <function=
    next_parameter,   // behind <function=…> or </parameter>
    parameter_name,   // behind <parameter=
    parameter_value,  // behind <parameter=…>
  };
  enum class Match { no, partial, whole };

  // One per state. false: more text has to come.
  bool step(Pieces& out);
  bool read_text(Pieces& out);
  bool read_behind_call();
  bool read_opened();
  bool read_json();
  bool read_json_end(Pieces& out);
  bool read_function_name();
  bool read_next_parameter(Pieces& out);
  bool read_parameter_name();
  bool read_parameter_value();

  Match match(std::string_view tag) const;
  void skip_space();
  void emit_text(size_t end, Pieces& out);
  void emit_call(Pieces& out);
  bool not_a_call();
  bool not_the_end_of_value();
  void keep_value();
  void drop_emitted();

  ToolSchemas schemas_;
  State state_ = State::text;
  std::string buffer_;  // all text that is not out yet
  // Offsets into buffer_.
  size_t start_ = 0;  // what is before has been given out, during a push
  size_t solid_ = 0;  // the end of what is certainly text: then white space, then a block or a tag
  size_t at_ = 0;     // what is before has been read
  size_t name_ = 0;   // of the JSON object, the function's name or the parameter's name: the beginning
  size_t value_ = 0, value_end_ = 0;  // of the open parameter

  // The JSON object.
  unsigned depth_ = 0;
  bool in_string_ = false, escaped_ = false;

  // The call being read.
  ToolCall call_;
  bool value_open_ = false;  // a parameter has a name and is not kept yet
  unsigned inner_ = 0;       // parameters opened inside its value
  std::string key_;
  std::vector<std::pair<std::string, std::string>> values_;  // key and JSON text
  std::unordered_map<std::string, size_t> index_;            // of a key in values_
  bool closing_ = false;                                     // </tool_call> may follow
};

}  // namespace qwen
