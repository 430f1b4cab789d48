// Training text: files of any size, mapped and never copied whole, cut into documents.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adder/data/training_corpus.h"
#include "adder/formats/file.h"

namespace adder {

// Regular files that the patterns name, absolute: a file itself; every file below a folder (names
// that begin with a dot are skipped); what a pattern with *, ? or [] matches. Folders and patterns
// give their files sorted by name; a file named twice appears once. Throws kNotFound for a pattern
// that names nothing, kIo.
std::vector<std::filesystem::path> ExpandFilePatterns(std::span<const std::string> patterns);

// Token i is byte i.
class ByteCorpus : public TrainingCorpus {
 public:
  // Maps the files. Every file is a document, or, with a separator that is not empty, every stretch
  // of it up to and including a separator is. Throws kNotFound, kIo; kInvalidArgument naming the
  // file for an empty one and when no document has two bytes, the least that has something to
  // predict; kCancelled once *cancel is true: a separator is looked for in all of the text.
  static ByteCorpus Open(std::span<const std::filesystem::path> files,
                         std::string_view separator = "",
                         const std::atomic<bool>* cancel = nullptr);

  // Cuts the last `share` (0 < share < 1) of all bytes off: {the rest, the tail}. A document across
  // the cut becomes two. Throws kInvalidArgument when one of them would have nothing to predict.
  std::pair<ByteCorpus, ByteCorpus> SplitTail(double share) const;

  int64_t bytes() const { return tokens(); }
  // The document's bytes, in the mapping.
  std::string_view document(int64_t index) const;

  int64_t vocab_size() const override { return 256; }
  void Read(int64_t position, std::span<int32_t> tokens) const override;

  // Changes when the documents' number or lengths, or one of a few hundred sampled bytes, do: tells
  // a resumed run that it would read other text.
  uint64_t Fingerprint() const override;

 private:
  // A stretch of one file that holds whole documents.
  struct Stretch {
    int64_t begin;  // when all are laid end to end
    std::string_view text;
  };

  ByteCorpus() = default;

  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::vector<Stretch> stretches_;
};

}  // namespace adder
