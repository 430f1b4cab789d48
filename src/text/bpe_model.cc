// The merges. Most words were met before: their tokens lie in a small table beside them. A new word
// is short as a rule and merged by looking at all its pairs again and again; a long one by a heap.
#include "adder/text/bpe_model.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <queue>

#include "adder/text/byte_level.h"
#include "adder/text/utf8.h"

namespace adder {
namespace {

constexpr uint64_t kNoPair = ~uint64_t{0};
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
// Up to this many symbols a scan of all pairs is faster than a heap.
constexpr size_t kShort = 48;
constexpr std::string_view kMetaspace = "\u2581";

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

uint64_t Scramble(uint64_t value) {
  value *= 0x9e3779b97f4a7c15;
  return value ^ value >> 32;
}

// Up to 24 bytes as three numbers that, with the length, no other bytes give.
struct WordKey {
  uint64_t parts[3];
  uint32_t length;

  static constexpr size_t kLongest = 24;

  explicit WordKey(std::string_view word) : length(static_cast<uint32_t>(word.size())) {
    const char* data = word.data();
    const auto read = [](const char* from, auto zero) {
      std::memcpy(&zero, from, sizeof(zero));
      return static_cast<uint64_t>(zero);
    };
    parts[1] = parts[2] = 0;
    if (word.size() >= 8) {
      parts[0] = read(data, uint64_t{});
      parts[1] = read(data + word.size() - 8, uint64_t{});
      if (word.size() > 16) parts[2] = read(data + 8, uint64_t{});
    } else if (word.size() >= 4) {
      parts[0] = read(data, uint32_t{}) | read(data + word.size() - 4, uint32_t{}) << 32;
    } else {
      const auto byte = [&](size_t i) {
        return static_cast<uint64_t>(static_cast<unsigned char>(data[i]));
      };
      parts[0] = byte(0) | byte(word.size() / 2) << 8 | byte(word.size() - 1) << 16;
    }
  }

  uint64_t Hash() const {
    return Scramble(Scramble(parts[0] + length) ^ parts[1] ^ std::rotl(parts[2], 17));
  }
  bool Equals(const WordKey& other) const {
    return parts[0] == other.parts[0] && parts[1] == other.parts[1] && parts[2] == other.parts[2] &&
           length == other.length;
  }
};

struct Candidate {
  uint32_t rank;
  uint32_t position;
  int32_t left;
  int32_t right;

  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

class BpeModel::Scratch {
 public:
  // A word and its tokens; a line of the processor's cache.
  struct alignas(64) Entry {
    uint64_t parts[3];
    uint32_t length;  // 0: empty
    uint16_t count;
    std::array<uint16_t, 1> unused;
    std::array<int32_t, 8> tokens;
  };
  static constexpr int kBits = 15;

  Scratch() : entries_(size_t{1} << kBits) {}

  Entry& At(const WordKey& key) { return entries_[key.Hash() >> (64 - kBits)]; }

  std::vector<int32_t> symbols;
  // Of a long word: the symbols on both sides of each, and the merges to come.
  std::vector<uint32_t> previous;
  std::vector<uint32_t> next;
  std::vector<Candidate> heap;

 private:
  std::vector<Entry> entries_;
};

BpeModel::BpeModel(const TokenIds& ids, std::span<const Merge> merges, const Options& options)
    : ids_(ids), options_(options) {
  // At most half full.
  const int bits = std::max(4, static_cast<int>(std::bit_width(2 * merges.size())));
  pair_shift_ = 64 - bits;
  pairs_.assign(size_t{1} << bits, {kNoPair, kNoRank, -1});
  for (size_t i = 0; i < merges.size(); ++i) {
    const uint64_t pair = PairKey(merges[i].left, merges[i].right);
    size_t slot = Scramble(pair) >> pair_shift_;
    while (pairs_[slot].pair != kNoPair && pairs_[slot].pair != pair) {
      slot = (slot + 1) & (pairs_.size() - 1);
    }
    pairs_[slot] = {pair, static_cast<uint32_t>(i), merges[i].merged};
  }

  const auto find = [&](std::string_view text) {
    const auto found = ids.find(text);
    return found == ids.end() ? -1 : found->second;
  };
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[static_cast<size_t>(byte)] =
        find(options.byte_level ? ByteLevelCharacter(static_cast<unsigned char>(byte))
                                : fmt::format("<0x{:02X}>", byte));
  }

  const std::string space = options.byte_level ? ByteLevelCharacter(' ') : std::string(kMetaspace);
  // A space without a token is unknown, and unknown characters may become one across it.
  splits_at_spaces_ = ids.contains(space);
  std::unordered_map<int32_t, std::string_view> texts;
  for (const auto& [text, id] : ids) texts.emplace(id, text);
  for (const Merge& merge : merges) {
    // The text behind the spaces at its beginning.
    std::string_view text = texts.at(merge.merged);
    while (text.starts_with(space)) text.remove_prefix(space.size());
    if (text.find(space) != std::string_view::npos) splits_at_spaces_ = false;
  }

  if (options.byte_level && options.ignore_merges) {
    std::vector<std::pair<std::string, int32_t>> decoded;
    for (const auto& [text, id] : ids) {
      std::string bytes;
      if (ByteLevelDecode(text, &bytes)) decoded.emplace_back(std::move(bytes), id);
    }
    byte_texts_.reserve(decoded.size());
    for (auto& [bytes, id] : decoded) {
      byte_texts_.push_back(std::move(bytes));
      ids_by_bytes_.emplace(byte_texts_.back(), id);
    }
  }
}

BpeModel::~BpeModel() = default;

BpeModel::Lease::Lease(const BpeModel& model) : model_(model) {
  const std::lock_guard lock(model.mutex_);
  if (model.free_.empty()) {
    scratch_ = std::make_unique<Scratch>();
  } else {
    scratch_ = std::move(model.free_.back());
    model.free_.pop_back();
  }
}

BpeModel::Lease::~Lease() {
  const std::lock_guard lock(model_.mutex_);
  model_.free_.push_back(std::move(scratch_));
}

const BpeModel::PairEntry* BpeModel::Find(int32_t left, int32_t right) const {
  const uint64_t pair = PairKey(left, right);
  size_t slot = Scramble(pair) >> pair_shift_;
  while (pairs_[slot].pair != pair) {
    if (pairs_[slot].pair == kNoPair) return nullptr;
    slot = (slot + 1) & (pairs_.size() - 1);
  }
  return &pairs_[slot];
}

void BpeModel::Encode(std::string_view word, Scratch& scratch, std::vector<int32_t>* tokens) const {
  if (options_.byte_level || !splits_at_spaces_ || options_.ignore_merges) {
    return EncodeWhole(word, scratch, tokens);
  }
  // Words that keep their spaces, up to whole texts, are merged space by space.
  while (!word.empty()) {
    size_t spaces = 0;
    while (word.substr(spaces).starts_with(kMetaspace)) spaces += kMetaspace.size();
    const size_t end = std::min(word.find(kMetaspace, spaces), word.size());
    EncodeWhole(word.substr(0, end), scratch, tokens);
    word.remove_prefix(end);
  }
}

void BpeModel::EncodeWhole(std::string_view word, Scratch& scratch,
                           std::vector<int32_t>* tokens) const {
  if (word.empty()) return;
  if (word.size() > WordKey::kLongest) return EncodeUncached(word, scratch, tokens);
  const WordKey key(word);
  Scratch::Entry& entry = scratch.At(key);
  if (entry.length == key.length && entry.parts[0] == key.parts[0] &&
      entry.parts[1] == key.parts[1] && entry.parts[2] == key.parts[2]) {
    tokens->insert(tokens->end(), entry.tokens.begin(), entry.tokens.begin() + entry.count);
    return;
  }
  const size_t before = tokens->size();
  EncodeUncached(word, scratch, tokens);
  const size_t count = tokens->size() - before;
  if (count > entry.tokens.size()) return;
  std::copy(std::begin(key.parts), std::end(key.parts), std::begin(entry.parts));
  entry.length = key.length;
  entry.count = static_cast<uint16_t>(count);
  std::copy(tokens->end() - static_cast<std::ptrdiff_t>(count), tokens->end(),
            entry.tokens.begin());
}

void BpeModel::EncodeUncached(std::string_view word, Scratch& scratch,
                              std::vector<int32_t>* tokens) const {
  if (options_.ignore_merges) {
    const TokenIds& ids = options_.byte_level ? ids_by_bytes_ : ids_;
    if (const auto found = ids.find(word); found != ids.end()) {
      tokens->push_back(found->second);
      return;
    }
  }
  std::vector<int32_t>& symbols = scratch.symbols;
  symbols.clear();
  Begin(word, &symbols);
  if (symbols.size() <= kShort) {
    MergeShort(&symbols);
  } else {
    MergeLong(&symbols, scratch);
  }
  tokens->insert(tokens->end(), symbols.begin(), symbols.end());
}

void BpeModel::EncodeByte(unsigned char byte, std::vector<int32_t>* tokens) const {
  const bool known = options_.byte_level || options_.byte_fallback;
  int32_t id = known ? byte_ids_[byte] : -1;
  if (id < 0) id = options_.unknown;
  if (id >= 0) tokens->push_back(id);
}

void BpeModel::Begin(std::string_view word, std::vector<int32_t>* symbols) const {
  int unknown = 0;  // tokens that wait, as the order is where bytes come after unknown characters
  const auto flush = [&] {
    symbols->insert(symbols->end(), static_cast<size_t>(unknown), options_.unknown);
    unknown = 0;
  };
  const auto add_unknown = [&] {
    if (options_.unknown < 0) return;
    if (unknown > 0 && !options_.fuse_unknown) flush();
    unknown = 1;
  };
  if (options_.byte_level) {
    for (const char c : word) {
      const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
      if (id >= 0) {
        flush();
        symbols->push_back(id);
      } else {
        add_unknown();
      }
    }
    return flush();
  }
  while (!word.empty()) {
    const std::string_view character = word.substr(0, ReadUtf8(word.data()).length);
    word.remove_prefix(character.size());
    if (const auto found = ids_.find(character); found != ids_.end()) {
      flush();
      symbols->push_back(found->second);
      continue;
    }
    const auto id_of = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (options_.byte_fallback &&
        std::all_of(character.begin(), character.end(), [&](char c) { return id_of(c) >= 0; })) {
      for (const char c : character) symbols->push_back(id_of(c));
    } else {
      add_unknown();
    }
  }
  flush();
}

void BpeModel::MergeShort(std::vector<int32_t>* symbols) const {
  // The merge that each symbol has with the one behind it.
  std::array<uint32_t, kShort> ranks;
  std::array<int32_t, kShort> merged;
  int32_t* ids = symbols->data();
  size_t count = symbols->size();
  const auto look = [&](size_t i) {
    const PairEntry* entry = Find(ids[i], ids[i + 1]);
    ranks[i] = entry == nullptr ? kNoRank : entry->rank;
    merged[i] = entry == nullptr ? -1 : entry->merged;
  };
  for (size_t i = 0; i + 1 < count; ++i) look(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == kNoRank) break;
    ids[best] = merged[best];
    for (size_t i = best + 1; i + 1 < count; ++i) {
      ids[i] = ids[i + 1];
      ranks[i] = ranks[i + 1];
      merged[i] = merged[i + 1];
    }
    --count;
    if (best + 1 < count) look(best);
    if (best > 0) look(best - 1);
  }
  symbols->resize(count);
}

void BpeModel::MergeLong(std::vector<int32_t>* symbols, Scratch& scratch) const {
  constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();
  constexpr int32_t kGone = -1;
  std::vector<int32_t>& ids = *symbols;
  std::vector<uint32_t>& previous = scratch.previous;
  std::vector<uint32_t>& next = scratch.next;
  const auto count = static_cast<uint32_t>(ids.size());
  previous.resize(count);
  next.resize(count);
  for (uint32_t i = 0; i < count; ++i) {
    previous[i] = i == 0 ? kEnd : i - 1;
    next[i] = i + 1 == count ? kEnd : i + 1;
  }
  std::vector<Candidate>& heap = scratch.heap;
  heap.clear();
  const auto candidate = [&](uint32_t i) -> const PairEntry* {
    return next[i] == kEnd ? nullptr : Find(ids[i], ids[next[i]]);
  };
  const auto push = [&](uint32_t i) {
    if (const PairEntry* entry = candidate(i)) {
      heap.push_back({entry->rank, i, ids[i], ids[next[i]]});
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  };
  for (uint32_t i = 0; i + 1 < count; ++i) {
    if (const PairEntry* entry = candidate(i)) {
      heap.push_back({entry->rank, i, ids[i], ids[i + 1]});
    }
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const Candidate top = heap.back();
    heap.pop_back();
    // What one of its sides was merged into something else by now.
    const uint32_t i = top.position;
    if (ids[i] != top.left || next[i] == kEnd || ids[next[i]] != top.right) continue;
    const uint32_t right = next[i];
    ids[i] = Find(top.left, top.right)->merged;
    ids[right] = kGone;
    next[i] = next[right];
    if (next[i] != kEnd) previous[next[i]] = i;
    if (previous[i] != kEnd) push(previous[i]);
    push(i);
  }
  ids.erase(std::remove(ids.begin(), ids.end(), kGone), ids.end());
}

}  // namespace adder
