// What training reads: documents of tokens, laid end to end.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace adder {

class TrainingCorpus {
 public:
  virtual ~TrainingCorpus() = default;

  // Tokens are below this.
  virtual int64_t vocab_size() const = 0;
  int64_t tokens() const { return begins_.back(); }
  int64_t documents() const { return static_cast<int64_t>(begins_.size()) - 1; }
  // Where the document begins when all are laid end to end; documents() gives tokens().
  int64_t begin(int64_t index) const { return begins_[static_cast<size_t>(index)]; }
  // The document that holds the token at `position` of all documents laid end to end.
  int64_t Find(int64_t position) const {
    return std::upper_bound(begins_.begin(), begins_.end(), position) - begins_.begin() - 1;
  }
  // The tokens from `position` on, which lie in one document.
  virtual void Read(int64_t position, std::span<int32_t> tokens) const = 0;

  // Changes when the corpus does, as far as a look at parts of it can tell: a resumed run notices
  // that it would read other text.
  virtual uint64_t Fingerprint() const = 0;

 protected:
  TrainingCorpus() = default;
  TrainingCorpus(const TrainingCorpus&) = default;
  TrainingCorpus(TrainingCorpus&&) = default;
  TrainingCorpus& operator=(const TrainingCorpus&) = default;
  TrainingCorpus& operator=(TrainingCorpus&&) = default;

  // One number per document, of which there may be very many; documents() + 1.
  std::vector<int64_t> begins_ = {0};
};

}  // namespace adder
