// Every pair of neighbouring tokens knows how often it is met and in which words; a heap knows
// which is met most. A merge touches only the words that have its pair.
#include "adder/text/bpe_trainer.h"

#include <fmt/core.h>

#include <algorithm>
#include <queue>
#include <set>
#include <utility>

#include "adder/core/error.h"
#include "adder/formats/json.h"
#include "adder/text/byte_level.h"
#include "adder/text/gpt2_words.h"
#include "adder/text/text_cut.h"
#include "adder/text/unicode.h"

namespace adder {
namespace {

constexpr size_t kPartBytes = size_t{1} << 20;
constexpr int64_t kMostTokens = int64_t{1} << 24;

struct Word {
  std::vector<int32_t> symbols;
  int64_t count;
};

struct Pair {
  int32_t left;
  int32_t right;

  // clang-tidy 14 takes the comparison with 0 for a pointer's.
  // NOLINTNEXTLINE(modernize-use-nullptr)
  friend auto operator<=>(const Pair&, const Pair&) = default;
};

struct PairHash {
  size_t operator()(const Pair& pair) const {
    const uint64_t key = static_cast<uint64_t>(pair.left) << 32 | static_cast<uint32_t>(pair.right);
    const uint64_t product = key * 0x9e3779b97f4a7c15;
    return product ^ product >> 32;
  }
};

// Where a pair is met. Words that lost it again stay in the list until it is merged.
struct Places {
  int64_t count = 0;
  std::vector<uint32_t> words;
};

struct Candidate {
  int64_t count;
  Pair pair;

  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : other.pair < pair;
  }
};

// Bytes by their characters, of which the printable ones come first.
std::vector<std::pair<std::string, unsigned char>> Alphabet() {
  std::vector<std::pair<std::string, unsigned char>> alphabet;
  for (int byte = 0; byte < 256; ++byte) {
    const auto b = static_cast<unsigned char>(byte);
    alphabet.emplace_back(ByteLevelCharacter(b), b);
  }
  std::sort(alphabet.begin(), alphabet.end());
  return alphabet;
}

class Learner {
 public:
  explicit Learner(std::vector<Word> words) : words_(std::move(words)) {
    for (size_t w = 0; w < words_.size(); ++w) {
      const std::vector<int32_t>& symbols = words_[w].symbols;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        Change({symbols[i], symbols[i + 1]}, words_[w].count, w);
      }
    }
    for (const auto& [pair, places] : pairs_) heap_.push({places.count, pair});
  }

  // The pair met most often, at least `min_count` times; false: there is none.
  bool Best(int64_t min_count, Pair* pair) {
    while (!heap_.empty()) {
      const Candidate top = heap_.top();
      heap_.pop();
      const auto places = pairs_.find(top.pair);
      if (places == pairs_.end() || places->second.count <= 0) continue;
      // It was met more often when it came into the heap. One that is met more often came in anew.
      if (places->second.count < top.count) {
        heap_.push({places->second.count, top.pair});
        continue;
      }
      if (top.count < min_count) return false;
      *pair = top.pair;
      return true;
    }
    return false;
  }

  void Merge(const Pair& pair, int32_t merged) {
    const std::vector<uint32_t> touched = std::move(pairs_.at(pair).words);
    pairs_.at(pair).words.clear();
    grown_.clear();
    for (const uint32_t w : touched) MergeWord(w, pair, merged);
    std::sort(grown_.begin(), grown_.end());
    grown_.erase(std::unique(grown_.begin(), grown_.end()), grown_.end());
    for (const Pair& grown : grown_) heap_.push({pairs_.at(grown).count, grown});
    if (pairs_.at(pair).count <= 0) pairs_.erase(pair);
  }

 private:
  void Change(const Pair& pair, int64_t by, size_t word) {
    Places& places = pairs_[pair];
    places.count += by;
    if (by <= 0) return;
    const auto index = static_cast<uint32_t>(word);
    if (places.words.empty() || places.words.back() != index) places.words.push_back(index);
  }

  void MergeWord(size_t w, const Pair& pair, int32_t merged) {
    std::vector<int32_t>& symbols = words_[w].symbols;
    const int64_t count = words_[w].count;
    size_t out = 0;  // symbols up to here are done
    for (size_t i = 0; i < symbols.size(); ++i) {
      if (i + 1 == symbols.size() || symbols[i] != pair.left || symbols[i + 1] != pair.right) {
        symbols[out++] = symbols[i];
        continue;
      }
      Change(pair, -count, w);
      if (out > 0) {
        Change({symbols[out - 1], pair.left}, -count, w);
        Grow({symbols[out - 1], merged}, count, w);
      }
      if (i + 2 < symbols.size()) {
        Change({pair.right, symbols[i + 2]}, -count, w);
        Grow({merged, symbols[i + 2]}, count, w);
      }
      symbols[out++] = merged;
      ++i;
    }
    symbols.resize(out);
  }

  void Grow(const Pair& pair, int64_t by, size_t word) {
    Change(pair, by, word);
    grown_.push_back(pair);
  }

  std::vector<Word> words_;
  std::unordered_map<Pair, Places, PairHash> pairs_;
  std::priority_queue<Candidate> heap_;
  std::vector<Pair> grown_;  // by the merge in progress
};

}  // namespace

void BpeTrainer::Add(std::string_view text) {
  const NormalForm& nfc = NormalForm::Get(NormalForm::kNfc);
  const auto count = [this](std::string_view words) {
    ForEachGpt2Word(words, [&](size_t begin, size_t length) {
      const std::string_view word = words.substr(begin, length);
      const auto known = counts_.find(word);
      if (known != counts_.end()) {
        ++known->second;
      } else {
        counts_.emplace(word, 1);
      }
    });
  };
  std::string normalized;
  while (!text.empty()) {
    std::string_view part = text.substr(0, LengthBeforeWord(text, kPartBytes));
    text.remove_prefix(part.size());
    while (!part.empty()) {
      const std::string_view valid = part.substr(0, ValidUtf8Length(part));
      part.remove_prefix(std::min(valid.size() + 1, part.size()));
      normalized.clear();
      count(nfc.Append(valid, &normalized) ? normalized : valid);
    }
  }
}

void CheckBpeTrainingOptions(const BpeTrainingOptions& options) {
  const auto fail = [](const std::string& message) {
    throw Error(ErrorCode::kInvalidArgument, message);
  };
  const std::vector<std::pair<std::string, unsigned char>> alphabet = Alphabet();
  std::set<std::string> seen;
  for (const std::string& token : options.special_tokens) {
    const bool is_byte = std::any_of(alphabet.begin(), alphabet.end(),
                                     [&](const auto& entry) { return entry.first == token; });
    if (token.empty() || is_byte || ValidUtf8Length(token) != token.size()) {
      fail(fmt::format("{} cannot be a special token", JsonQuote(token, 60)));
    }
    if (!seen.insert(token).second) {
      fail(fmt::format("the special token {} is given twice", JsonQuote(token, 60)));
    }
  }
  const auto least = static_cast<int64_t>(seen.size() + alphabet.size());
  if (options.vocab_size < least || options.vocab_size > kMostTokens) {
    fail(fmt::format("a vocabulary of {} tokens, expected {} (special tokens and bytes) to {}",
                     options.vocab_size, least, kMostTokens));
  }
}

Vocabulary BpeTrainer::Train(const BpeTrainingOptions& options) const {
  CheckBpeTrainingOptions(options);
  Vocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "gpt-neox";
  std::unordered_map<std::string, int32_t> ids;
  const auto add = [&](const std::string& text, TokenType type) {
    const auto [entry, added] = ids.emplace(text, static_cast<int32_t>(ids.size()));
    if (added) {
      vocabulary.tokens.push_back(text);
      vocabulary.types.push_back(type);
    }
    return entry->second;
  };
  for (const std::string& token : options.special_tokens) add(token, TokenType::kControl);
  if (!options.special_tokens.empty()) vocabulary.bos = vocabulary.eos = 0;
  std::vector<int32_t> byte_ids(256);
  for (const auto& [text, byte] : Alphabet()) byte_ids[byte] = add(text, TokenType::kNormal);
  const auto least = static_cast<int64_t>(vocabulary.tokens.size());

  std::vector<Word> words;
  words.reserve(counts_.size());
  for (const auto& [text, count] : counts_) {
    Word word = {{}, count};
    for (const char c : text) word.symbols.push_back(byte_ids[static_cast<unsigned char>(c)]);
    words.push_back(std::move(word));
  }
  Learner learner(std::move(words));
  const int64_t total = options.vocab_size - least;
  Pair pair = {};
  while (static_cast<int64_t>(vocabulary.tokens.size()) < options.vocab_size &&
         learner.Best(std::max<int64_t>(1, options.min_count), &pair)) {
    if (options.cancel != nullptr && options.cancel->load()) {
      throw Error(ErrorCode::kCancelled,
                  fmt::format("stopped after {} of {} merges", vocabulary.merges.size(), total));
    }
    const std::string& left = vocabulary.tokens[static_cast<size_t>(pair.left)];
    const std::string& right = vocabulary.tokens[static_cast<size_t>(pair.right)];
    vocabulary.merges.push_back(fmt::format("{} {}", left, right));
    learner.Merge(pair, add(left + right, TokenType::kNormal));
    if (options.progress) {
      options.progress(static_cast<int64_t>(vocabulary.tokens.size()) - least, total);
    }
  }
  return vocabulary;
}

}  // namespace adder
