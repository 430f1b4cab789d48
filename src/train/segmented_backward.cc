// Cuts a batch into pieces; forward over the cuts, backward over the pieces.
#include "adder/train/segmented_backward.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "adder/autograd/tape.h"
#include "adder/core/dtype.h"
#include "adder/core/error.h"
#include "adder/core/shape.h"

namespace adder {
namespace {

// Rows that lie together: a part of one sequence, or the rest of one and whole ones after it.
struct Piece {
  int64_t begin = 0;                  // its first row
  int64_t rows = 0;                   // of it
  int64_t first = 0;                  // the sequence its first row belongs to
  std::vector<int64_t> lengths = {};  // of its sequences
  bool continues = false;             // the first sequence began in the piece before
  bool cut = false;                   // the only sequence goes on in the next piece

  int64_t sequences() const { return static_cast<int64_t>(lengths.size()); }
};

// Only sequences of more than `segment` rows are cut: each cut costs a further forward.
std::vector<Piece> Cut(const SequenceLayout& layout, int64_t segment) {
  std::vector<Piece> pieces;
  Piece piece;
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    int64_t left = layout.length(s);
    if (left > segment - piece.rows && !piece.lengths.empty()) {
      pieces.push_back(std::exchange(piece, {.begin = layout.begin(s), .first = s}));
    }
    while (left > segment) {
      piece.rows = segment;
      piece.lengths = {segment};
      piece.cut = true;
      left -= segment;
      pieces.push_back(
          std::exchange(piece, {.begin = layout.end(s) - left, .first = s, .continues = true}));
    }
    piece.rows += left;
    piece.lengths.push_back(left);
  }
  if (!piece.lengths.empty()) pieces.push_back(std::move(piece));
  return pieces;
}

Tensor EmptyRows(const Tensor& like, int64_t rows) {
  std::vector<int64_t> dims(like.shape().dims().begin(), like.shape().dims().end());
  dims[0] = rows;
  return Tensor::Empty(Shape(dims), like.dtype(), like.device());
}

// What the piece's sequences begin with, an entry each: `cut`, the memory of the one before, where
// it continues, and their part of `given`, what the batch's sequences begin with. Empty where that
// is nothing.
std::vector<Tensor> Beginning(const Piece& piece, const std::vector<Tensor>& cut,
                              const std::vector<Variable>& given) {
  std::vector<Tensor> beginning;
  for (const Variable& entry : given) {
    beginning.push_back(entry ? entry.value().Rows(piece.first, piece.sequences()) : Tensor());
  }
  if (!piece.continues || piece.sequences() == 1) return piece.continues ? cut : beginning;
  beginning.resize(cut.size());
  for (size_t i = 0; i < cut.size(); ++i) {
    const Tensor joined = EmptyRows(cut[i], piece.sequences());
    if (beginning[i]) {
      joined.CopyFrom(beginning[i]);
    } else {
      joined.SetZero();
    }
    joined.Rows(0, 1).CopyFrom(cut[i]);
    beginning[i] = joined;
  }
  return beginning;
}

std::vector<Tensor> Values(const std::vector<Variable>& variables) {
  std::vector<Tensor> values;
  for (const Variable& variable : variables) values.push_back(variable.value());
  return values;
}

}  // namespace

SegmentedBackward::SegmentedBackward(const LanguageModel& model, int64_t segment,
                                     Recompute recompute)
    : model_(model), segment_(segment), recompute_(recompute) {
  if (segment < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a segment has {} rows, expected at least 1", segment));
  }
  const State state = model.InitialState(0);
  for (const State::Entry& entry : state.entries()) {
    if (!entry.grows) continue;
    throw Error(ErrorCode::kUnsupported,
                "training in segments hands on a memory of fixed size from one to the next, and a "
                "model with attention remembers every row");
  }
}

Tensor SegmentedBackward::Run(const Tensor& tokens, const Tensor& targets,
                              const SequenceLayout& layout, float weight, Memory* memory) const {
  const std::vector<Piece> pieces = Cut(layout, segment_);
  int64_t most = 0;
  for (const Piece& piece : pieces) most = std::max(most, piece.rows);
  const Tensor host_weights = Tensor::Empty({most}, DType::kF32);
  std::fill_n(host_weights.data<float>(), most, weight);
  const Tensor weights = host_weights.To(model_.device());
  const Tensor losses = Tensor::Empty({layout.rows()}, DType::kF32, model_.device());

  const std::vector<Variable> given = memory == nullptr ? std::vector<Variable>() : memory->entries;
  std::vector<Tensor> ending;  // of all sequences
  const auto keep_ending = [&](const Piece& piece, const std::vector<Variable>& entries) {
    if (ending.empty()) {
      for (const Variable& entry : entries) {
        ending.push_back(EmptyRows(entry.value(), layout.sequences()));
      }
    }
    for (size_t i = 0; i < entries.size(); ++i) {
      ending[i].Rows(piece.first, piece.sequences()).CopyFrom(entries[i].value());
    }
  };

  // From one piece that begins with a sequence to the next.
  for (size_t begin = 0, end = 0; begin < pieces.size(); begin = end) {
    // The memory at each cut, from the first on.
    std::vector<std::vector<Tensor>> cuts(1);
    for (end = begin; pieces[end].cut; ++end) {
      const Piece& piece = pieces[end];
      Memory passing;
      for (const Tensor& value : Beginning(piece, cuts.back(), given)) {
        // A copy: without a tape memory is overwritten.
        passing.entries.emplace_back(value ? value.Clone() : Tensor());
      }
      model_.Hidden(nullptr, tokens.Rows(piece.begin, piece.rows),
                    SequenceLayout::FromLengths(piece.lengths), &passing);
      cuts.push_back(Values(passing.entries));
    }
    ++end;

    // The gradient with respect to the memory at the cut behind the piece.
    std::vector<Tensor> handed_back;
    for (size_t i = end; i-- > begin; cuts.pop_back()) {
      const Piece& piece = pieces[i];
      const bool remembers = piece.continues || piece.cut || memory != nullptr;
      std::vector<Gradient> to_beginning;
      Tape tape;
      {
        Memory passing;
        for (const Tensor& value : Beginning(piece, cuts.back(), given)) {
          passing.entries.emplace_back(value, piece.continues);
          to_beginning.push_back(passing.entries.back().gradient());
        }
        const Variable hidden = model_.Hidden(&tape, tokens.Rows(piece.begin, piece.rows),
                                              SequenceLayout::FromLengths(piece.lengths),
                                              remembers ? &passing : nullptr, recompute_);
        losses.Rows(piece.begin, piece.rows)
            .CopyFrom(model_.LossWithGradients(hidden, targets.Rows(piece.begin, piece.rows),
                                               weights.Rows(0, piece.rows)));
        for (size_t k = 0; k < handed_back.size(); ++k) {
          if (!handed_back[k]) continue;
          passing.entries[k].CollectGradOverwriting(
              [&](const Tensor& target) { target.CopyFrom(handed_back[k]); });
        }
        if (memory != nullptr && !piece.cut) keep_ending(piece, passing.entries);
      }
      tape.Backward();
      handed_back.clear();
      if (!piece.continues) continue;
      for (const Gradient& gradient : to_beginning) {
        const Tensor value = gradient.value();
        handed_back.push_back(value ? value.Rows(0, 1) : value);
      }
    }
  }

  if (memory != nullptr) {
    memory->entries.clear();
    for (const Tensor& value : ending) memory->entries.emplace_back(value);
    memory->positions.resize(static_cast<size_t>(layout.sequences()), 0);
    for (int64_t s = 0; s < layout.sequences(); ++s) {
      memory->positions[static_cast<size_t>(s)] += layout.length(s);
    }
  }
  return losses;
}

}  // namespace adder
