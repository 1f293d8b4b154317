#include "base/nfc.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/unicode.h"
#include "base/utf8.h"

namespace qwen {
namespace {

// Hangul syllables are arithmetic on their jamo (Unicode 16, section 3.12).
constexpr char32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTrail = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTrails = 28, kSyllables = kLeads * kVowels * kTrails;

struct Character {
  char32_t code_point;
  uint8_t ccc;
};

char32_t compose(char32_t first, char32_t second) {
  if (first - kLead < kLeads && second - kVowel < kVowels)
    return kSyllable + ((first - kLead) * kVowels + (second - kVowel)) * kTrails;
  if (first - kSyllable < kSyllables && (first - kSyllable) % kTrails == 0 &&
      second - kTrail - 1 < kTrails - 1)
    return first + (second - kTrail);
  return canonical_composition(first, second);
}

void decompose(char32_t c, std::vector<Character>& out) {
  if (c - kSyllable < kSyllables) {
    const char32_t index = c - kSyllable;
    out.push_back({kLead + index / (kVowels * kTrails), 0});
    out.push_back({kVowel + index / kTrails % kVowels, 0});
    if (index % kTrails) out.push_back({kTrail + index % kTrails, 0});
  } else if (unicode_property(c) & kPropertyDecomposes) {
    for (const char32_t part : canonical_decomposition(c)) out.push_back({part, combining_class(part)});
  } else {
    out.push_back({c, combining_class(c)});
  }
}

// Decomposes, reorders and composes `text`; nothing outside it can interact with it.
void normalize_segment(std::string_view text, std::vector<Character>& characters, std::string& out) {
  characters.clear();
  for (const char* p = text.data(); p != text.data() + text.size();) decompose(utf8_next(p), characters);

  for (size_t i = 0; i < characters.size();) {
    if (characters[i].ccc == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < characters.size() && characters[end].ccc != 0) ++end;
    std::stable_sort(characters.begin() + static_cast<ptrdiff_t>(i),
                     characters.begin() + static_cast<ptrdiff_t>(end),
                     [](const Character& a, const Character& b) { return a.ccc < b.ccc; });
    i = end;
  }

  // A character joins the last starter unless one between them has the same or a higher class (UAX #15,
  // D115-D117).
  constexpr size_t kNone = ~size_t{0};
  size_t starter = kNone, kept = 0;
  for (const Character& c : characters) {
    if (starter != kNone) {
      const bool adjacent = kept == starter + 1;
      if (adjacent || (characters[kept - 1].ccc != 0 && characters[kept - 1].ccc < c.ccc)) {
        if (const char32_t composed = compose(characters[starter].code_point, c.code_point)) {
          characters[starter].code_point = composed;
          continue;
        }
      }
    }
    if (c.ccc == 0) starter = kept;
    characters[kept++] = c;
  }
  for (size_t i = 0; i < kept; ++i) utf8_append(out, characters[i].code_point);
}

// Nothing before a code point without these properties can change together with what follows it.
bool is_boundary(char32_t c) {
  return !(unicode_property(c) & (kPropertyQuickCheck | kPropertyReorders));
}

}  // namespace

std::string_view normalize_nfc(std::string_view text, std::string& storage) {
  const char* const end = text.data() + text.size();
  const char* copied = text.data();    // everything before this is in storage
  const char* boundary = text.data();  // start of the segment that the current code point belongs to
  bool changed = false;
  uint8_t last_ccc = 0;
  std::vector<Character> characters;

  for (const char* p = text.data(); p != end;) {
    if (static_cast<unsigned char>(*p) < 0x80) {  // ASCII: always a boundary; only the last of a run matters
      for (uint64_t word; end - p >= 8; p += 8) {
        std::memcpy(&word, p, 8);
        if (word & 0x8080808080808080u) break;
      }
      while (p != end && static_cast<unsigned char>(*p) < 0x80) ++p;
      boundary = p - 1;
      last_ccc = 0;
      continue;
    }
    const char* const here = p;
    const char32_t c = utf8_next(p);
    const uint8_t property = unicode_property(c);
    if (!(property & (kPropertyQuickCheck | kPropertyReorders))) {
      boundary = here;
      last_ccc = 0;
      continue;
    }
    if (!(property &
          kPropertyQuickCheck)) {  // a mark that stays a mark: fine while the classes do not descend
      const uint8_t ccc = combining_class(c);
      if (last_ccc <= ccc) {
        last_ccc = ccc;
        continue;
      }
    }
    for (const char* next = p; p != end; p = next) {
      if (is_boundary(utf8_next(next))) break;
    }
    if (!changed) {
      storage.clear();
      storage.reserve(text.size());
      changed = true;
    }
    storage.append(copied, boundary);
    normalize_segment({boundary, p}, characters, storage);
    copied = boundary = p;
    last_ccc = 0;
  }
  if (!changed) return text;
  storage.append(copied, end);
  return storage;
}

}  // namespace qwen
