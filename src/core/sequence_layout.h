// Which rows belong to which sequence. Activations are [rows, channels] with no padding: sequences
// of any lengths lie one after the other, and the layout's offsets say where each begins.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace adder {

class SequenceLayout {
 public:
  SequenceLayout() : offsets_{0} {}  // no sequences, no rows
  // offsets: first 0, never decreasing; sequence s is rows [offsets[s], offsets[s + 1]).
  // Throws kInvalidArgument otherwise.
  explicit SequenceLayout(std::vector<int64_t> offsets);

  // One sequence of `rows` rows.
  static SequenceLayout Single(int64_t rows);
  // A batch of `sequences` sequences of `length` rows each.
  static SequenceLayout Uniform(int64_t sequences, int64_t length);
  static SequenceLayout FromLengths(std::span<const int64_t> lengths);

  int64_t sequences() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  int64_t rows() const { return offsets_.back(); }
  int64_t begin(int64_t s) const { return offsets_[static_cast<size_t>(s)]; }
  int64_t end(int64_t s) const { return offsets_[static_cast<size_t>(s) + 1]; }
  int64_t length(int64_t s) const { return end(s) - begin(s); }
  // sequences() + 1 row numbers.
  std::span<const int64_t> offsets() const { return offsets_; }

  friend bool operator==(const SequenceLayout&, const SequenceLayout&) = default;

 private:
  std::vector<int64_t> offsets_;
};

}  // namespace adder
