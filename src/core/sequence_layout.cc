#include "adder/core/sequence_layout.h"

#include <exception>
#include <string>
#include <utility>

#include "adder/core/error.h"
#include "adder/core/shape.h"

namespace adder {

SequenceLayout::SequenceLayout(std::vector<int64_t> offsets) : offsets_(std::move(offsets)) {
  if (offsets_.empty() || offsets_.front() != 0) {
    throw Error(ErrorCode::kInvalidArgument, "sequence offsets must begin with 0");
  }
  for (size_t s = 1; s < offsets_.size(); ++s) {
    if (offsets_[s] < offsets_[s - 1]) {
      throw Error(ErrorCode::kInvalidArgument,
                  "sequence offsets must not decrease: offset " + std::to_string(s) + " is " +
                      std::to_string(offsets_[s]) + " after " + std::to_string(offsets_[s - 1]));
    }
  }
}

SequenceLayout SequenceLayout::Single(int64_t rows) { return SequenceLayout({0, rows}); }

SequenceLayout SequenceLayout::Uniform(int64_t sequences, int64_t length) {
  CheckedProduct(sequences, length, "sequence layout");
  std::vector<int64_t> offsets;
  try {
    offsets.resize(static_cast<size_t>(sequences) + 1);
  } catch (const std::exception&) {  // too many to count, or to hold
    throw Error(ErrorCode::kOutOfMemory,
                "sequence layout: no memory for " + std::to_string(sequences) + " offsets");
  }
  for (size_t s = 0; s < offsets.size(); ++s) offsets[s] = static_cast<int64_t>(s) * length;
  return SequenceLayout(std::move(offsets));
}

SequenceLayout SequenceLayout::FromLengths(std::span<const int64_t> lengths) {
  std::vector<int64_t> offsets = {0};
  offsets.reserve(lengths.size() + 1);
  for (const int64_t length : lengths) {
    int64_t end = 0;
    if (length < 0 || __builtin_add_overflow(offsets.back(), length, &end)) {
      throw Error(ErrorCode::kInvalidArgument, "sequence " + std::to_string(offsets.size() - 1) +
                                                   " has length " + std::to_string(length) +
                                                   " after " + std::to_string(offsets.back()) +
                                                   " rows");
    }
    offsets.push_back(end);
  }
  return SequenceLayout(std::move(offsets));
}

}  // namespace adder
