// The opcodes are those of CPython's Lib/pickletools.py that PyTorch's and pickle's own writers
// use from protocol 2 on.
#include "adder/formats/pickle.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <unordered_map>

#include "adder/core/error.h"
#include "adder/formats/byte_reader.h"
#include "adder/formats/json.h"

namespace adder {
namespace {

constexpr size_t kMostBytes = size_t{1} << 26;
constexpr size_t kMostValues = size_t{1} << 22;
constexpr int kNewestProtocol = 5;
constexpr std::string_view kOrderedDict = "collections.OrderedDict";

enum Opcode : uint8_t {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kPopMark = '1',
  kDup = '2',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersistentId = 'Q',
  kReduce = 'R',
  kBinString = 'T',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kDict = 'd',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kList = 'l',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyDict = '}',
  kEmptyList = ']',
  kEmptyTuple = ')',
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kProtocol = 0x80,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kBinBytes8 = 0x8e,
  kEmptySet = 0x8f,
  kAddItems = 0x90,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

}  // namespace

class PickleParser {
 public:
  PickleParser(std::span<const std::byte> bytes, std::span<const std::string_view> allowed,
               std::string_view source)
      : reader_(bytes, source), allowed_(allowed) {
    if (bytes.size() > kMostBytes) {
      Refuse(fmt::format("the pickle has {} bytes, expected at most {}", bytes.size(), kMostBytes));
    }
  }

  Pickle Run() {
    if (reader_.remaining() == 0 || Byte() != kProtocol) {
      Refuse("the pickle is of protocol 0 or 1, expected 2 to 5");
    }
    const uint8_t protocol = Byte();
    if (protocol < 2 || protocol > kNewestProtocol) {
      Refuse(fmt::format("the pickle is of protocol {}, expected 2 to 5", protocol));
    }
    while (true) {
      const uint8_t opcode = Byte();
      if (opcode == kStop) break;
      Execute(opcode);
    }
    pickle_.root_ = Pop();
    if (!stack_.empty() || !marks_.empty()) Corrupt("stops with objects left over");
    return std::move(pickle_);
  }

 private:
  using Kind = PickleValue::Kind;

  [[noreturn]] void Corrupt(std::string_view problem) const {
    reader_.Fail(fmt::format("the pickle {} (byte {})", problem, reader_.position()));
  }
  [[noreturn]] void Refuse(std::string_view problem) const {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: {}", reader_.source(), problem));
  }

  uint8_t Byte() { return Value<uint8_t>(); }
  template <class T>
  T Value() {
    return reader_.Value<T>("its pickle");
  }
  std::string_view Text(uint64_t count) { return reader_.Text(count, "its pickle"); }
  // Up to a newline, as protocol 0 writes texts.
  std::string_view Line() {
    ByteReader ahead = reader_;
    const size_t end = ahead.Text(ahead.remaining(), "its pickle").find('\n');
    if (end == std::string_view::npos) Corrupt("has a line without an end");
    return Text(end + 1).substr(0, end);
  }

  PickleValue* New(Kind kind) {
    if (pickle_.values_.size() >= kMostValues) {
      Refuse(fmt::format("the pickle has more than {} objects", kMostValues));
    }
    PickleValue& value = pickle_.values_.emplace_back();
    value.kind = kind;
    return &value;
  }
  PickleValue* Push(Kind kind) {
    stack_.push_back(New(kind));
    return stack_.back();
  }
  void PushInt(int64_t integer, Kind kind = Kind::kInt) { Push(kind)->integer = integer; }
  void PushText(std::string_view text) { Push(Kind::kText)->text = text; }

  size_t Floor() const { return marks_.empty() ? 0 : marks_.back(); }
  PickleValue* Top() const {
    if (stack_.size() <= Floor()) Corrupt("takes an object that is not there");
    return stack_.back();
  }
  PickleValue* Pop() {
    PickleValue* top = Top();
    stack_.pop_back();
    return top;
  }
  // The objects above the last mark, which is removed too.
  std::vector<const PickleValue*> PopToMark() {
    if (marks_.empty()) Corrupt("takes objects down to a mark that is not there");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<const PickleValue*> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }

  void PushTuple(size_t count) {
    std::vector<const PickleValue*> items(count);
    for (size_t i = count; i-- > 0;) items[i] = Pop();
    Push(Kind::kTuple)->items = std::move(items);
  }
  void Extend(PickleValue* target, Kind kind, std::vector<const PickleValue*> items) {
    if (target->kind != kind) {
      Corrupt(kind == Kind::kList ? "appends to what is no list" : "sets items of what is no dict");
    }
    if (kind == Kind::kDict && items.size() % 2 != 0) Corrupt("sets a key without a value");
    target->items.insert(target->items.end(), items.begin(), items.end());
  }
  void SetItem() {
    const PickleValue* value = Pop();
    const PickleValue* key = Pop();
    Extend(Top(), Kind::kDict, {key, value});
  }
  void Append() {
    const PickleValue* item = Pop();
    Extend(Top(), Kind::kList, {item});
  }
  // A little-endian two's complement number of any length.
  void PushLong(uint64_t count) {
    const std::string_view bytes = Text(count);
    if (bytes.size() > sizeof(int64_t)) {
      Push(Kind::kOpaque);
      return;
    }
    const bool negative = !bytes.empty() && (bytes.back() & '\x80') != 0;
    int64_t integer = negative ? -1 : 0;
    std::memcpy(&integer, bytes.data(), bytes.size());
    PushInt(integer);
  }

  void PushGlobal(std::string_view module, std::string_view name) {
    const std::string full = fmt::format("{}.{}", module, name);
    PickleValue* global = Push(Kind::kGlobal);
    if (full == kOrderedDict) {
      global->text = kOrderedDict;
      return;
    }
    const auto found = std::lower_bound(allowed_.begin(), allowed_.end(), full);
    if (found == allowed_.end() || *found != full) {
      const std::string quoted = JsonQuote(full, 200);
      const bool plain = quoted.size() == full.size() + 2;
      Refuse(fmt::format("the pickle asks for {}, which a checkpoint doesn't need",
                         plain ? full : quoted));
    }
    global->text = *found;
  }
  void PushStackGlobal() {
    const PickleValue* name = Pop();
    const PickleValue* module = Pop();
    if (name->kind != Kind::kText || module->kind != Kind::kText) {
      Corrupt("names a global by what is no text");
    }
    PushGlobal(module->text, name->text);
  }

  // What Python would call: remembered as a call, but for OrderedDict, which is a dict.
  void Reduce() {
    const PickleValue* arguments = Pop();
    const PickleValue* function = Pop();
    if (function->kind != Kind::kGlobal || arguments->kind != Kind::kTuple) {
      Corrupt("calls what is no function, or with what are no arguments");
    }
    if (function->text != kOrderedDict) {
      Push(Kind::kCall)->items = {function, arguments};
      return;
    }
    PickleValue* dict = Push(Kind::kDict);
    if (arguments->items.empty()) return;
    // OrderedDict([(key, value), ...])
    const PickleValue* pairs = arguments->items.front();
    if (arguments->items.size() != 1 || pairs->kind != Kind::kList) {
      Corrupt("makes an OrderedDict of what is no list of pairs");
    }
    // One list can become many dicts.
    copied_ += pairs->items.size();
    if (copied_ > kMostValues) {
      Refuse(fmt::format("the pickle makes OrderedDicts of more than {} pairs", kMostValues));
    }
    for (const PickleValue* pair : pairs->items) {
      if ((pair->kind != Kind::kTuple && pair->kind != Kind::kList) || pair->items.size() != 2) {
        Corrupt("makes an OrderedDict of what is no list of pairs");
      }
      dict->items.insert(dict->items.end(), pair->items.begin(), pair->items.end());
    }
  }
  // Attributes of an object. PyTorch gives its dicts of tensors some (their modules' versions),
  // which nobody needs.
  void Build() {
    Pop();
    if (Top()->kind != Kind::kDict) Corrupt("gives attributes to what is no dict");
  }

  void Remember(uint64_t index) { memo_[index] = Top(); }
  void Recall(uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) Corrupt(fmt::format("recalls object {}, which it never kept", index));
    stack_.push_back(found->second);
  }

  void Execute(uint8_t opcode) {
    switch (opcode) {
      case kProtocol:
        Byte();
        return;
      case kFrame: {
        const auto length = Value<uint64_t>();
        if (length > reader_.remaining()) Corrupt("has a frame longer than itself");
        return;
      }
      case kMark:
        marks_.push_back(stack_.size());
        return;
      case kPop:
        // On a mark it removes the mark.
        if (!marks_.empty() && stack_.size() == marks_.back()) {
          marks_.pop_back();
        } else {
          Pop();
        }
        return;
      case kPopMark:
        PopToMark();
        return;
      case kDup:
        stack_.push_back(Top());
        return;
      case kNone:
        Push(Kind::kNone);
        return;
      case kNewTrue:
        return PushInt(1, Kind::kBool);
      case kNewFalse:
        return PushInt(0, Kind::kBool);
      case kBinInt:
        return PushInt(Value<int32_t>());
      case kBinInt1:
        return PushInt(Byte());
      case kBinInt2:
        return PushInt(Value<uint16_t>());
      case kLong1:
        return PushLong(Byte());
      case kLong4:
        return PushLong(Value<uint32_t>());
      case kBinFloat:  // the one big-endian number
        Push(Kind::kFloat)->number = std::bit_cast<double>(__builtin_bswap64(Value<uint64_t>()));
        return;
      case kBinString:
      case kBinUnicode:
        return PushText(Text(Value<uint32_t>()));
      case kShortBinString:
      case kShortBinUnicode:
        return PushText(Text(Byte()));
      case kBinUnicode8:
        return PushText(Text(Value<uint64_t>()));
      case kBinBytes:
        Text(Value<uint32_t>());
        Push(Kind::kOpaque);
        return;
      case kShortBinBytes:
        Text(Byte());
        Push(Kind::kOpaque);
        return;
      case kBinBytes8:
        Text(Value<uint64_t>());
        Push(Kind::kOpaque);
        return;
      case kEmptySet:
        Push(Kind::kOpaque);
        return;
      case kAddItems:
        PopToMark();
        if (Top()->kind != Kind::kOpaque) Corrupt("adds items to what is no set");
        return;
      case kEmptyTuple:
        return PushTuple(0);
      case kTuple1:
        return PushTuple(1);
      case kTuple2:
        return PushTuple(2);
      case kTuple3:
        return PushTuple(3);
      case kTuple: {
        auto items = PopToMark();
        Push(Kind::kTuple)->items = std::move(items);
        return;
      }
      case kEmptyList:
        Push(Kind::kList);
        return;
      case kList: {
        auto items = PopToMark();
        Push(Kind::kList)->items = std::move(items);
        return;
      }
      case kAppend:
        return Append();
      case kAppends: {
        auto items = PopToMark();
        return Extend(Top(), Kind::kList, std::move(items));
      }
      case kEmptyDict:
        Push(Kind::kDict);
        return;
      case kDict: {
        auto items = PopToMark();
        return Extend(Push(Kind::kDict), Kind::kDict, std::move(items));
      }
      case kSetItem:
        return SetItem();
      case kSetItems: {
        auto items = PopToMark();
        return Extend(Top(), Kind::kDict, std::move(items));
      }
      case kGlobal: {
        const std::string_view module = Line();
        return PushGlobal(module, Line());
      }
      case kStackGlobal:
        return PushStackGlobal();
      case kReduce:
        return Reduce();
      case kBuild:
        return Build();
      case kBinPersistentId: {
        const PickleValue* id = Pop();
        Push(Kind::kPersistent)->items = {id};
        return;
      }
      case kBinPut:
        return Remember(Byte());
      case kLongBinPut:
        return Remember(Value<uint32_t>());
      case kMemoize:
        return Remember(memo_.size());
      case kBinGet:
        return Recall(Byte());
      case kLongBinGet:
        return Recall(Value<uint32_t>());
      default:
        Refuse(
            fmt::format("the pickle uses the opcode {:#04x} at byte {}, which a checkpoint "
                        "doesn't need",
                        opcode, reader_.position() - 1));
    }
  }

  ByteReader reader_;
  std::span<const std::string_view> allowed_;
  Pickle pickle_;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;  // sizes of the stack when each was set
  std::unordered_map<uint64_t, PickleValue*> memo_;
  size_t copied_ = 0;  // pairs of OrderedDicts
};

Pickle Pickle::Parse(std::span<const std::byte> bytes, std::span<const std::string_view> allowed,
                     std::string_view source) {
  return PickleParser(bytes, allowed, source).Run();
}

}  // namespace adder
