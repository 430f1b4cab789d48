// What a model remembers of the sequences it has read: per layer the convolution window and the
// SSM state, and for an attention layer its keys and values. A State is a value: copying it forks
// the conversation, assigning an older copy rolls it back, and for a pure Mamba its size does not
// depend on how much has been read.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "adder/core/tensor.h"

namespace adder {

class State {
 public:
  // One part of the memory, e.g. "layers.3.ssm": f32 [sequences, ...].
  struct Entry {
    std::string name;
    Tensor value;
    // An attention layer's keys or values, [sequences, capacity, ...]: what a sequence has read are
    // its first position rows; those after them, up to the capacity, mean nothing.
    bool grows = false;
  };

  State() = default;  // no sequences; what a model has not begun to read
  // Every entry's first dimension is the number of sequences; `fingerprint` names the model
  // (see LanguageModel::fingerprint) and `positions` the rows each sequence has read so far, for
  // which a growing entry has capacity. Throws kInvalidArgument when they disagree.
  State(uint64_t fingerprint, std::vector<int64_t> positions, std::vector<Entry> entries);

  // Value semantics: copies copy the elements.
  State(const State& other);
  State& operator=(const State& other);
  State(State&&) noexcept = default;
  State& operator=(State&&) noexcept = default;
  ~State() = default;

  int64_t sequences() const { return static_cast<int64_t>(positions_.size()); }
  uint64_t fingerprint() const { return fingerprint_; }
  std::span<const int64_t> positions() const { return positions_; }
  std::span<int64_t> mutable_positions() { return positions_; }
  std::span<const Entry> entries() const { return entries_; }
  std::span<Entry> mutable_entries() { return entries_; }
  // Where the entries lie, all on one device; the CPU where there are none.
  Device device() const { return entries_.empty() ? Device{} : entries_.front().value.device(); }
  // Size of all entries' elements; of a growing entry's, those that were read.
  int64_t bytes() const;

  // The same state on a device: a copy, but for what a state that is given up has there already.
  State To(Device device) const&;
  State To(Device device) &&;

  // The named sequences, in that order, each index any number of times (fork: {0, 0, 0}).
  // Throws kInvalidArgument for an index out of range.
  State Select(std::span<const int64_t> sequences) const;
  // One state of all the given states' sequences, in order, on the first one's device. Throws
  // kInvalidArgument when they belong to different models.
  static State Stack(std::span<const State> states);

  // The same state where every growing entry has no more capacity than the longest sequence needs,
  // and zeros in the rows that others have beyond their ends: what is saved.
  State Compact() const;

  // Same model, positions and bits; capacities and devices do not count.
  friend bool operator==(const State& a, const State& b);

 private:
  uint64_t fingerprint_ = 0;
  std::vector<int64_t> positions_;
  std::vector<Entry> entries_;
};

}  // namespace adder
