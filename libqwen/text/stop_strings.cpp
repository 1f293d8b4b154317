#include "text/stop_strings.h"

#include <limits>

#include "base/error.h"
#include "base/utf8.h"

namespace qwen {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)), nodes_(1) {
  size_t bytes = 0;
  for (size_t i = 0; i < stops_.size(); ++i) {
    if (stops_[i].empty())
      fail(Status::invalid_argument, "stop string ", i, " is empty: it must have at least one character");
    if (const size_t error = utf8_error(stops_[i]); error != std::string::npos)
      fail(Status::invalid_argument, "stop string ", i, " is not valid UTF-8 at byte ", error);
    bytes += stops_[i].size();
  }
  if (bytes >= std::numeric_limits<uint32_t>::max())
    fail(Status::invalid_argument, "the stop strings have ", bytes, " bytes, more than 4 GiB");
  nodes_.reserve(bytes + 1);
  for (uint32_t i = 0; i < stops_.size(); ++i) insert(i);
  link();
}

void StopStrings::insert(uint32_t stop) {
  uint32_t node = 0;
  for (const char byte : stops_[stop]) {
    uint32_t found = child(node, byte);
    if (!found) {
      found = static_cast<uint32_t>(nodes_.size());
      nodes_.push_back({.stop = stop, .depth = nodes_[node].depth + 1, .byte = byte});
      if (node) {
        nodes_[found].next_sibling = nodes_[node].first_child;
        nodes_[node].first_child = found;
      } else {
        first_byte_[static_cast<unsigned char>(byte)] = found;
      }
    }
    node = found;
  }
  if (nodes_[node].complete) return;  // equal to an earlier one
  nodes_[node].complete = node;
  nodes_[node].stop = stop;
}

// Breadth first: a fallback is always shorter, so it is there before it is needed.
void StopStrings::link() {
  std::vector<uint32_t> order;
  order.reserve(nodes_.size());
  for (const uint32_t node : first_byte_)
    if (node) order.push_back(node);
  for (size_t i = 0; i < order.size(); ++i) {
    const uint32_t parent = order[i];
    for (uint32_t node = nodes_[parent].first_child; node; node = nodes_[node].next_sibling) {
      nodes_[node].fallback = next(nodes_[parent].fallback, nodes_[node].byte);
      if (!nodes_[node].complete) nodes_[node].complete = nodes_[nodes_[node].fallback].complete;
      order.push_back(node);
    }
  }
}

uint32_t StopStrings::child(uint32_t node, char byte) const {
  if (!node) return first_byte_[static_cast<unsigned char>(byte)];
  uint32_t at = nodes_[node].first_child;
  while (at && nodes_[at].byte != byte) at = nodes_[at].next_sibling;
  return at;
}

// Every fallback makes the held text shorter and every byte makes it longer by one at most: linear in the text.
uint32_t StopStrings::next(uint32_t node, char byte) const {
  for (;; node = nodes_[node].fallback) {
    if (const uint32_t found = child(node, byte)) return found;
    if (!node) return 0;
  }
}

// The held text needs no buffer: it is the beginning of a stop string.
std::string_view StopStrings::held() const {
  const Node& node = nodes_[node_];
  return node.depth ? std::string_view(stops_[node.stop]).substr(0, node.depth) : std::string_view();
}

// No code point is split. Both cuts made here, before what is held and before what matched, are before the first byte
// of a stop string. Stop strings are valid UTF-8, so that byte leads a code point; the text is whole code points, and
// in such a text every leading byte stands at a border. The text's other end is a border of `text` itself.
std::string StopStrings::push(std::string_view text) {
  if (matched_) return {};
  const std::string_view before = held();
  size_t read = text.size(), kept = 0;
  for (size_t i = 0; i < text.size() && !matched_; ++i) {
    node_ = next(node_, text[i]);
    if (const uint32_t complete = nodes_[node_].complete) {
      matched_ = nodes_[complete].stop;
      read = i + 1;
      kept = nodes_[complete].depth;
    }
  }
  if (!matched_) kept = nodes_[node_].depth;
  // Only what is released is copied: a long held text costs nothing while it is held.
  const size_t released = before.size() + read - kept;
  std::string out(before.substr(0, released));
  out.append(text.substr(0, released - out.size()));
  return out;
}

std::string StopStrings::finish() {
  if (matched_) return {};
  std::string rest(held());
  node_ = 0;
  return rest;
}

}  // namespace qwen
