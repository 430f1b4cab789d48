#include "adder/core/state.h"

#include <cstring>
#include <utility>

#include "adder/core/error.h"

namespace adder {
namespace {

Shape WithSequences(const Shape& shape, int64_t sequences) {
  std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
  dims[0] = sequences;
  return Shape(dims);
}

bool SameBits(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  const Tensor dense_a = a.contiguous() ? a : a.Clone();
  const Tensor dense_b = b.contiguous() ? b : b.Clone();
  return a.elements() == 0 ||
         std::memcmp(dense_a.raw(), dense_b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

}  // namespace

State::State(uint64_t fingerprint, std::vector<int64_t> positions, std::vector<Entry> entries)
    : fingerprint_(fingerprint), positions_(std::move(positions)), entries_(std::move(entries)) {
  for (const Entry& entry : entries_) {
    if (!entry.value.defined() || entry.value.rank() == 0 || entry.value.dim(0) != sequences()) {
      throw Error(ErrorCode::kInvalidArgument,
                  "state entry " + entry.name + " is " + entry.value.ToString() +
                      ", expected a first dimension of " + std::to_string(sequences()));
    }
  }
}

State::State(const State& other)
    : fingerprint_(other.fingerprint_), positions_(other.positions_), entries_(other.entries_) {
  for (Entry& entry : entries_) entry.value = entry.value.Clone();
}

State& State::operator=(const State& other) {
  if (this != &other) *this = State(other);
  return *this;
}

int64_t State::bytes() const {
  int64_t total = 0;
  for (const Entry& entry : entries_) total += entry.value.bytes();
  return total;
}

State State::Select(std::span<const int64_t> sequences) const {
  State selected;
  selected.fingerprint_ = fingerprint_;
  for (const int64_t s : sequences) {
    if (s < 0 || s >= this->sequences()) {
      throw Error(ErrorCode::kInvalidArgument, "sequence " + std::to_string(s) +
                                                   " of a state that holds " +
                                                   std::to_string(this->sequences()));
    }
    selected.positions_.push_back(positions_[static_cast<size_t>(s)]);
  }
  for (const Entry& entry : entries_) {
    const Tensor& from = entry.value;
    const Tensor to = Tensor::Empty(WithSequences(from.shape(), selected.sequences()), from.dtype(),
                                    from.device());
    for (size_t i = 0; i < sequences.size(); ++i) {
      to.Rows(static_cast<int64_t>(i), 1).CopyFrom(from.Rows(sequences[i], 1));
    }
    selected.entries_.push_back({entry.name, to});
  }
  return selected;
}

State State::Stack(std::span<const State> states) {
  State stacked;
  if (states.empty()) return stacked;
  stacked.fingerprint_ = states.front().fingerprint_;
  for (const State& state : states) {
    bool same = state.fingerprint_ == stacked.fingerprint_ &&
                state.entries_.size() == states.front().entries_.size();
    for (size_t e = 0; same && e < state.entries_.size(); ++e) {
      const Entry& entry = state.entries_[e];
      const Entry& first = states.front().entries_[e];
      same = entry.name == first.name && entry.value.dtype() == first.value.dtype() &&
             entry.value.shape() == WithSequences(first.value.shape(), state.sequences());
    }
    if (!same) {
      throw Error(ErrorCode::kInvalidArgument, "states of different models cannot be stacked");
    }
    stacked.positions_.insert(stacked.positions_.end(), state.positions_.begin(),
                              state.positions_.end());
  }
  for (size_t e = 0; e < states.front().entries_.size(); ++e) {
    const Entry& first = states.front().entries_[e];
    const Tensor to = Tensor::Empty(WithSequences(first.value.shape(), stacked.sequences()),
                                    first.value.dtype(), first.value.device());
    int64_t row = 0;
    for (const State& state : states) {
      to.Rows(row, state.sequences()).CopyFrom(state.entries_[e].value);
      row += state.sequences();
    }
    stacked.entries_.push_back({first.name, to});
  }
  return stacked;
}

bool operator==(const State& a, const State& b) {
  if (a.fingerprint_ != b.fingerprint_ || a.positions_ != b.positions_ ||
      a.entries_.size() != b.entries_.size()) {
    return false;
  }
  for (size_t e = 0; e < a.entries_.size(); ++e) {
    if (a.entries_[e].name != b.entries_[e].name ||
        !SameBits(a.entries_[e].value, b.entries_[e].value)) {
      return false;
    }
  }
  return true;
}

}  // namespace adder
