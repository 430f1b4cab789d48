// Python pickles read as data. Nothing is imported, called or executed: a pickle that asks for a
// function gets a value that says so, and it may only name what the caller's list allows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string_view>
#include <vector>

namespace adder {

// One object of a pickle. Objects may be shared and, in a hostile pickle, contain themselves.
struct PickleValue {
  enum class Kind : uint8_t {
    kNone,
    kBool,        // integer
    kInt,         // integer
    kFloat,       // number
    kText,        // text
    kOpaque,      // bytes, sets and integers past 64 bits: there, but nothing a checkpoint needs
    kTuple,       // items
    kList,        // items
    kDict,        // items: key, value, key, value, ...; OrderedDicts too
    kGlobal,      // text: "torch.FloatStorage"
    kCall,        // items: a kGlobal and the tuple of its arguments
    kPersistent,  // items: the id, of which only the file's format knows what it stands for
  };

  Kind kind = Kind::kNone;
  int64_t integer = 0;
  double number = 0;
  std::string_view text;
  std::vector<const PickleValue*> items;
};

class Pickle {
 public:
  // Reads a pickle of protocol 2 to 5. `allowed`: the globals it may name, as "module.name",
  // sorted; collections.OrderedDict is always allowed. `source` is what messages call it. Texts are
  // views of `bytes`. Throws kCorrupt for what is no pickle, kUnsupported naming what it asks for
  // beyond the list, or more than a checkpoint has reason to: 64 MiB, 4 million objects.
  static Pickle Parse(std::span<const std::byte> bytes, std::span<const std::string_view> allowed,
                      std::string_view source);

  const PickleValue& root() const { return *root_; }

 private:
  friend class PickleParser;

  std::deque<PickleValue> values_;  // owns all of them; a deque keeps addresses
  const PickleValue* root_ = nullptr;
};

}  // namespace adder
