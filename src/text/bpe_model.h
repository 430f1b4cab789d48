// Byte-pair encoding (Sennrich et al. 2016) of words: the pair of neighbours whose merge was
// learned first becomes one token, the leftmost where there are several, until no pair has a merge.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace adder {

// Ids by their texts; texts live as long as the map.
using TokenIds = std::unordered_map<std::string_view, int32_t>;

class BpeModel {
 public:
  struct Merge {
    int32_t left;
    int32_t right;
    int32_t merged;
  };

  struct Options {
    // Words are bytes, and token texts are written in the alphabet of byte_level.h.
    bool byte_level = false;
    // A character without a token becomes the tokens <0xHH> of its bytes, where all of them exist.
    bool byte_fallback = false;
    // A character that is left becomes this token; -1: nothing.
    int32_t unknown = -1;
    // Neighbouring unknown characters become one token.
    bool fuse_unknown = false;
    // A word that is a token becomes it, whatever its merges say.
    bool ignore_merges = false;
  };

  // `ids` must outlive the model; merges come in the order in which they were learned, and the last
  // of equal ones counts.
  BpeModel(const TokenIds& ids, std::span<const Merge> merges, const Options& options);
  ~BpeModel();

  // Memory that encoding a text takes. Keeps the words met most lately with their tokens.
  class Scratch;
  // Lends one of the model's, which several threads may ask for; it is given back when destroyed.
  class Lease {
   public:
    explicit Lease(const BpeModel& model);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    Scratch& operator*() const { return *scratch_; }

   private:
    const BpeModel& model_;
    std::unique_ptr<Scratch> scratch_;
  };

  // Appends the tokens of a word: valid UTF-8, or bytes where the model is byte-level.
  void Encode(std::string_view word, Scratch& scratch, std::vector<int32_t>* tokens) const;
  // Appends what stands for a byte that belongs to no character.
  void EncodeByte(unsigned char byte, std::vector<int32_t>* tokens) const;

  // No merge joins a space (as it is written in this vocabulary) to something before it, so that
  // text may be cut before each space.
  bool splits_at_spaces() const { return splits_at_spaces_; }

 private:
  // The merge of a pair, in a table with open addressing.
  struct PairEntry {
    uint64_t pair;
    uint32_t rank;
    int32_t merged;
  };

  const PairEntry* Find(int32_t left, int32_t right) const;
  void EncodeWhole(std::string_view word, Scratch& scratch, std::vector<int32_t>* tokens) const;
  void EncodeUncached(std::string_view word, Scratch& scratch, std::vector<int32_t>* tokens) const;
  // The tokens of a word's characters, before any merge.
  void Begin(std::string_view word, std::vector<int32_t>* symbols) const;
  void MergeShort(std::vector<int32_t>* symbols) const;
  void MergeLong(std::vector<int32_t>* symbols, Scratch& scratch) const;

  const TokenIds& ids_;
  Options options_;
  std::vector<PairEntry> pairs_;
  int pair_shift_ = 0;
  std::array<int32_t, 256> byte_ids_;  // byte-level: of the bytes; otherwise of <0xHH>; -1: none
  std::vector<std::string> byte_texts_;
  TokenIds ids_by_bytes_;  // byte-level with ignore_merges
  bool splits_at_spaces_ = true;

  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> free_;
};

}  // namespace adder
