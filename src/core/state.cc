#include "adder/core/state.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "adder/core/error.h"

namespace adder {
namespace {

// The shape of an entry for other sequences, a growing one's with just the capacity they need.
Shape ShapeFor(const State::Entry& entry, std::span<const int64_t> positions) {
  const Shape& shape = entry.value.shape();
  std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
  dims[0] = static_cast<int64_t>(positions.size());
  if (entry.grows) {
    dims[1] = positions.empty() ? 0 : *std::max_element(positions.begin(), positions.end());
  }
  return Shape(dims);
}

// Copies the named sequences, which have read `positions` rows, over those from `to_begin` in `to`.
// The rows of a growing entry after those become zero.
void CopySequences(const State::Entry& from, std::span<const int64_t> sequences,
                   std::span<const int64_t> positions, const Tensor& to, int64_t to_begin) {
  // Neighbours that stay neighbours are one copy.
  for (size_t begin = 0; begin < sequences.size();) {
    size_t end = begin + 1;
    while (!from.grows && end < sequences.size() && sequences[end] == sequences[end - 1] + 1) ++end;
    const auto count = static_cast<int64_t>(end - begin);
    const Tensor source = from.value.Rows(sequences[begin], count);
    const Tensor target = to.Rows(to_begin + static_cast<int64_t>(begin), count);
    if (!from.grows) {
      target.CopyFrom(source);
    } else {
      const int64_t position = positions[begin];
      target.Slice(1, 0, position).CopyFrom(source.Slice(1, 0, position));
      target.Slice(1, position, to.dim(1) - position).SetZero();
    }
    begin = end;
  }
}

std::vector<int64_t> AllSequences(const State& state) {
  std::vector<int64_t> all(static_cast<size_t>(state.sequences()));
  std::iota(all.begin(), all.end(), int64_t{0});
  return all;
}

bool SameBits(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  const auto on_host = [](const Tensor& tensor) {
    const Tensor host = tensor.To(Device{});
    return host.contiguous() ? host : host.Clone();
  };
  const Tensor dense_a = on_host(a);
  const Tensor dense_b = on_host(b);
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
    const int64_t longest =
        positions_.empty() ? 0 : *std::max_element(positions_.begin(), positions_.end());
    if (entry.grows && (entry.value.rank() < 2 || entry.value.dim(1) < longest)) {
      throw Error(ErrorCode::kInvalidArgument,
                  "state entry " + entry.name + " is " + entry.value.ToString() +
                      ", expected rows for the " + std::to_string(longest) + " that were read");
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

State State::To(Device device) const& {
  if (device == this->device()) return *this;
  State moved;
  moved.fingerprint_ = fingerprint_;
  moved.positions_ = positions_;
  for (const Entry& entry : entries_) {
    moved.entries_.push_back({entry.name, entry.value.To(device), entry.grows});
  }
  return moved;
}

State State::To(Device device) && {
  if (device == this->device()) return std::move(*this);
  return static_cast<const State&>(*this).To(device);
}

int64_t State::bytes() const {
  int64_t total = 0;
  for (const Entry& entry : entries_) {
    if (!entry.grows) {
      total += entry.value.bytes();
    } else if (entry.value.elements() > 0) {
      const int64_t row_bytes = entry.value.bytes() / (entry.value.dim(0) * entry.value.dim(1));
      for (const int64_t position : positions_) total += position * row_bytes;
    }
  }
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
    const Tensor to = Tensor::Empty(ShapeFor(entry, selected.positions_), entry.value.dtype(),
                                    entry.value.device());
    CopySequences(entry, sequences, selected.positions_, to, 0);
    selected.entries_.push_back({entry.name, to, entry.grows});
  }
  return selected;
}

State State::Compact() const { return Select(AllSequences(*this)); }

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
      same = entry.name == first.name && entry.grows == first.grows &&
             entry.value.dtype() == first.value.dtype() &&
             ShapeFor(entry, {}) == ShapeFor(first, {});
    }
    if (!same) {
      throw Error(ErrorCode::kInvalidArgument, "states of different models cannot be stacked");
    }
    stacked.positions_.insert(stacked.positions_.end(), state.positions_.begin(),
                              state.positions_.end());
  }
  for (size_t e = 0; e < states.front().entries_.size(); ++e) {
    const Entry& first = states.front().entries_[e];
    const Tensor to = Tensor::Empty(ShapeFor(first, stacked.positions_), first.value.dtype(),
                                    first.value.device());
    int64_t place = 0;
    for (const State& state : states) {
      CopySequences(state.entries_[e], AllSequences(state), state.positions_, to, place);
      place += state.sequences();
    }
    stacked.entries_.push_back({first.name, to, first.grows});
  }
  return stacked;
}

bool operator==(const State& a, const State& b) {
  if (a.fingerprint_ != b.fingerprint_ || a.positions_ != b.positions_ ||
      a.entries_.size() != b.entries_.size()) {
    return false;
  }
  for (size_t e = 0; e < a.entries_.size(); ++e) {
    const State::Entry& entry_a = a.entries_[e];
    const State::Entry& entry_b = b.entries_[e];
    if (entry_a.name != entry_b.name || entry_a.grows != entry_b.grows) return false;
    if (!entry_a.grows) {
      if (!SameBits(entry_a.value, entry_b.value)) return false;
      continue;
    }
    for (int64_t s = 0; s < a.sequences(); ++s) {
      const int64_t position = a.positions_[static_cast<size_t>(s)];
      if (!SameBits(entry_a.value.Rows(s, 1).Slice(1, 0, position),
                    entry_b.value.Rows(s, 1).Slice(1, 0, position))) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace adder
