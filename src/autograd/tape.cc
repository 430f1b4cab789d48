// The tape, the slots in which gradients are collected, and recomputation.
#include "adder/autograd/tape.h"

#include <algorithm>
#include <utility>

#include "adder/core/error.h"
#include "adder/ops/elementwise/elementwise.h"

namespace adder {

// The gradient of one leaf or result. Its memory is allocated at the first contribution and not
// cleared: `written` says which columns hold a sum already.
struct Gradient::Slot {
  struct Range {
    int64_t begin;
    int64_t end;
  };

  Shape shape;
  DType dtype = DType::kF32;
  Device device;
  Tensor sum;
  std::vector<Range> written;  // disjoint, in order

  int64_t width() const { return shape.rank() == 0 ? 1 : shape[-1]; }

  Tensor View(int64_t begin, int64_t end) const {
    return begin == 0 && end == width() ? sum : sum.Columns(begin, end - begin);
  }

  int64_t WrittenWithin(int64_t begin, int64_t end) const {
    int64_t count = 0;
    for (const Range& range : written) {
      count += std::max<int64_t>(0, std::min(end, range.end) - std::max(begin, range.begin));
    }
    return count;
  }

  // Zero to those columns of [begin, end) that hold no sum; all of them do afterwards.
  void ClearUnwritten(int64_t begin, int64_t end) {
    int64_t column = begin;
    for (const Range& range : written) {
      if (range.end <= column || range.begin >= end) continue;
      if (range.begin > column) View(column, range.begin).SetZero();
      column = range.end;
    }
    if (column < end) View(column, end).SetZero();
    MarkWritten(begin, end);
  }

  void MarkWritten(int64_t begin, int64_t end) {
    std::vector<Range> merged;
    Range grown = {begin, end};
    for (const Range& range : written) {
      if (range.end < grown.begin || range.begin > grown.end) {
        merged.push_back(range);
      } else {
        grown = {std::min(grown.begin, range.begin), std::max(grown.end, range.end)};
      }
    }
    merged.insert(
        std::upper_bound(merged.begin(), merged.end(), grown,
                         [](const Range& a, const Range& b) { return a.begin < b.begin; }),
        grown);
    written = std::move(merged);
  }
};

Tensor Gradient::value() const {
  if (!wanted() || !slot_->sum.defined()) return {};
  const int64_t end = begin_ + count_;
  if (slot_->WrittenWithin(begin_, end) == 0 && count_ > 0) return {};
  if (slot_->WrittenWithin(begin_, end) < count_) slot_->ClearUnwritten(begin_, end);
  return slot_->View(begin_, end);
}

Tensor Gradient::Target(bool* accumulate) const {
  Slot& slot = *slot_;
  if (!slot.sum.defined()) slot.sum = Tensor::Empty(slot.shape, slot.dtype, slot.device);
  const int64_t end = begin_ + count_;
  *accumulate = slot.WrittenWithin(begin_, end) > 0;
  if (*accumulate) {
    slot.ClearUnwritten(begin_, end);
  } else {
    slot.MarkWritten(begin_, end);
  }
  return slot.View(begin_, end);
}

void Gradient::Collect(
    const std::function<void(const Tensor& target, bool accumulate)>& write) const {
  if (!wanted()) return;
  bool accumulate = false;
  const Tensor target = Target(&accumulate);
  write(target, accumulate);
}

Contribution::Contribution(const Gradient& gradient) {
  if (!gradient.wanted()) return;
  bool accumulate = false;
  target_ = gradient.Target(&accumulate);
  if (accumulate) {
    sum_ = target_;
    target_ = Tensor::Empty(sum_.shape(), sum_.dtype(), sum_.device());
  }
}

void Contribution::Add() const {
  if (sum_.defined()) AddTo(sum_, target_);
}

Variable::Variable(Tensor value, bool requires_grad) : value_(std::move(value)) {
  if (!requires_grad) return;
  if (!value_.defined()) {
    throw Error(ErrorCode::kInvalidArgument, "an undefined variable cannot have a gradient");
  }
  auto slot = std::make_shared<Gradient::Slot>();
  slot->shape = value_.shape();
  slot->dtype = value_.dtype();
  slot->device = value_.device();
  const int64_t width = slot->width();
  gradient_ = Gradient(std::move(slot), 0, width);
}

void Variable::CollectGradOverwriting(
    const std::function<void(const Tensor& target)>& write) const {
  if (!requires_grad()) return;
  const Contribution contribution(gradient_);
  write(contribution.target());
  contribution.Add();
}

Variable Variable::Columns(int64_t begin, int64_t count) const {
  Variable view(value_.Columns(begin, count));
  if (requires_grad()) {
    view.gradient_ = Gradient(gradient_.slot_, gradient_.begin_ + begin, count);
  }
  return view;
}

void Tape::Record(std::function<void()> backward) { closures_.push_back(std::move(backward)); }

void Tape::Backward() {
  while (!closures_.empty()) {
    const std::function<void()> backward = std::move(closures_.back());
    closures_.pop_back();
    backward();
  }
}

std::vector<Variable> Checkpoint(Tape* tape, const BlockFunction& block,
                                 const std::vector<Variable>& inputs) {
  if (tape == nullptr) return block(nullptr, inputs);
  std::vector<Variable> outputs;
  std::vector<Gradient> gradients;
  for (const Variable& output : block(nullptr, inputs)) {
    outputs.push_back(output.defined() ? Variable(output.value(), true) : Variable());
    gradients.push_back(outputs.back().gradient());
  }
  tape->Record([block, inputs, gradients = std::move(gradients)] {
    std::vector<Tensor> seeds;
    bool any = false;
    for (const Gradient& gradient : gradients) {
      seeds.push_back(gradient.value());
      any = any || seeds.back().defined();
    }
    if (!any) return;
    // The recorded run shares the inputs' gradients, so what it collects is already in its place.
    Tape inner;
    {
      const std::vector<Variable> results = block(&inner, inputs);
      for (size_t i = 0; i < results.size(); ++i) {
        if (!seeds[i].defined()) continue;
        results[i].CollectGradOverwriting([&](const Tensor& target) { target.CopyFrom(seeds[i]); });
      }
    }
    inner.Backward();
  });
  return outputs;
}

}  // namespace adder
