// States are values: copies, forks and stacks hold their own elements.
#include "adder/core/state.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

// Element i of sequence s is 100·(first + s) + i.
State Numbered(int64_t sequences, int64_t first = 0, uint64_t fingerprint = 9) {
  const Tensor conv = Tensor::Empty({sequences, 2, 3}, DType::kF32);
  const Tensor ssm = Tensor::Empty({sequences, 4}, DType::kF64);
  std::vector<int64_t> positions;
  for (int64_t s = 0; s < sequences; ++s) {
    const double base = 100.0 * static_cast<double>(first + s);
    for (int i = 0; i < 6; ++i) conv.data<float>()[6 * s + i] = static_cast<float>(base + i);
    for (int i = 0; i < 4; ++i) ssm.data<double>()[4 * s + i] = base + i;
    positions.push_back(first + s);
  }
  return State(fingerprint, positions, {{"conv", conv}, {"ssm", ssm}});
}

TEST(StateTest, CopiesHoldTheirOwnElements) {
  State state = Numbered(2);
  EXPECT_EQ(state.sequences(), 2);
  EXPECT_EQ(state.bytes(), 2 * 6 * 4 + 2 * 4 * 8);
  const State copy = state;
  State assigned;
  assigned = state;
  state.mutable_entries()[0].value.data<float>()[0] = -1;
  state.mutable_positions()[1] = 77;
  EXPECT_EQ(copy, Numbered(2));
  EXPECT_EQ(assigned, Numbered(2));
  EXPECT_NE(state, copy);
  state = copy;  // rolled back
  EXPECT_EQ(state, Numbered(2));
  const State& alias = state;
  state = alias;
  EXPECT_EQ(state, Numbered(2));
  const float* elements = state.entries()[0].value.data<float>();
  const State moved = std::move(state);
  EXPECT_EQ(moved.entries()[0].value.data<float>(), elements);
}

TEST(StateTest, AStateThatIsWhereItShouldBeIsCopiedOrKept) {
  State state = Numbered(2);
  EXPECT_EQ(state.device(), Device{});
  EXPECT_EQ(State().device(), Device{});
  const State copy = state.To(Device{});
  const float* elements = state.entries()[0].value.data<float>();
  EXPECT_NE(copy.entries()[0].value.data<float>(), elements);
  EXPECT_EQ(copy, state);
  const State kept = std::move(state).To(Device{});
  EXPECT_EQ(kept.entries()[0].value.data<float>(), elements);
  EXPECT_EQ(kept, copy);
}

TEST(StateTest, SelectsAndForks) {
  const State state = Numbered(3);
  const std::vector<int64_t> order = {2, 0, 2};
  const State selected = state.Select(order);
  EXPECT_EQ(selected.fingerprint(), 9u);
  EXPECT_EQ(std::vector<int64_t>(selected.positions().begin(), selected.positions().end()), order);
  for (int64_t s = 0; s < 3; ++s) {
    const int64_t from = order[static_cast<size_t>(s)];
    for (int i = 0; i < 6; ++i) {
      EXPECT_EQ(selected.entries()[0].value.data<float>()[6 * s + i],
                static_cast<float>(100 * from + i));
    }
  }
  // Forks do not share elements.
  selected.entries()[0].value.data<float>()[0] = -1;
  EXPECT_EQ(selected.entries()[0].value.data<float>()[12], 200);
  EXPECT_EQ(state, Numbered(3));
  EXPECT_EQ(state.Select(std::vector<int64_t>{}).sequences(), 0);
  EXPECT_THROW(state.Select(std::vector<int64_t>{3}), Error);
  EXPECT_THROW(state.Select(std::vector<int64_t>{-1}), Error);
}

TEST(StateTest, StacksAndSelectsBack) {
  const std::vector<State> parts = {Numbered(2), Numbered(0), Numbered(3, 2)};
  const State stacked = State::Stack(parts);
  EXPECT_EQ(stacked, Numbered(5));
  EXPECT_EQ(stacked.Select(std::vector<int64_t>{2, 3, 4}), parts[2]);
  EXPECT_EQ(State::Stack({}), State());
}

TEST(StateTest, StatesOfDifferentModelsDoNotStack) {
  EXPECT_THROW(State::Stack(std::vector<State>{Numbered(1), Numbered(1, 0, 8)}), Error);
  const auto with = [](const char* name, const Shape& shape, DType dtype) {
    return State(
        9, {0},
        {{"conv", Tensor::Zeros({1, 2, 3}, DType::kF32)}, {name, Tensor::Zeros(shape, dtype)}});
  };
  const State base = with("ssm", {1, 4}, DType::kF64);
  EXPECT_NO_THROW(State::Stack(std::vector<State>{Numbered(1), base}));
  for (const State& other : {with("x", {1, 4}, DType::kF64), with("ssm", {1, 5}, DType::kF64),
                             with("ssm", {1, 4}, DType::kF32), State(9, {0}, {})}) {
    EXPECT_THROW(State::Stack(std::vector<State>{base, other}), Error);
  }
}

TEST(StateTest, ComparesBits) {
  const State zero(1, {0}, {{"x", Tensor::Zeros({1, 1}, DType::kF32)}});
  State other = zero;
  other.mutable_entries()[0].value.data<float>()[0] = -0.0f;
  EXPECT_NE(zero, other);
  other.mutable_entries()[0].value.data<float>()[0] = NAN;
  EXPECT_EQ(other, State(other));
  EXPECT_NE(zero, State(2, {0}, {{"x", Tensor::Zeros({1, 1}, DType::kF32)}}));
  EXPECT_NE(zero, State(1, {1}, {{"x", Tensor::Zeros({1, 1}, DType::kF32)}}));
  EXPECT_NE(zero, State(1, {0}, {{"y", Tensor::Zeros({1, 1}, DType::kF32)}}));
  EXPECT_NE(zero, State(1, {0}, {{"x", Tensor::Zeros({1, 1}, DType::kI32)}}));
}

TEST(StateTest, RefusesEntriesOfAnotherNumberOfSequences) {
  EXPECT_THROW(State(1, {0, 0}, {{"x", Tensor::Zeros({1, 2}, DType::kF32)}}), Error);
  EXPECT_THROW(State(1, {0}, {{"x", Tensor::Zeros({}, DType::kF32)}}), Error);
  EXPECT_THROW(State(1, {0}, {{"x", Tensor()}}), Error);
}

// Keys of an attention layer: [sequences, capacity, 2], the rows past a position mean nothing.
State Growing(std::vector<int64_t> positions, int64_t capacity, float filler) {
  const auto sequences = static_cast<int64_t>(positions.size());
  const Tensor keys = Tensor::Empty({sequences, capacity, 2}, DType::kF32);
  for (int64_t s = 0; s < sequences; ++s) {
    for (int64_t t = 0; t < capacity; ++t) {
      for (int64_t i = 0; i < 2; ++i) {
        const bool read = t < positions[static_cast<size_t>(s)];
        keys.data<float>()[(s * capacity + t) * 2 + i] =
            read ? static_cast<float>(100 * positions[static_cast<size_t>(s)] + 10 * t + i)
                 : filler;
      }
    }
  }
  return State(9, std::move(positions), {{"keys", keys, /*grows=*/true}});
}

TEST(StateTest, CapacityAndWhatLiesInItDoNotCount) {
  const State state = Growing({3, 0, 5}, 8, -1);
  EXPECT_EQ(state, Growing({3, 0, 5}, 5, 7));
  EXPECT_NE(state, Growing({3, 1, 5}, 8, -1));
  EXPECT_EQ(state.bytes(), 8 * 2 * 4);
  const State compact = state.Compact();
  EXPECT_EQ(compact, state);
  EXPECT_EQ(compact.entries()[0].value.shape(), Shape({3, 5, 2}));
  EXPECT_EQ(compact.entries()[0].value.data<float>()[3 * 2], 0);  // past sequence 0's end
  EXPECT_THROW(Growing({9}, 8, 0), Error);
}

TEST(StateTest, GrowingEntriesAreSelectedAndStackedAtTheirOwnLengths) {
  const State state = Growing({3, 0, 5}, 8, -1);
  const std::vector<int64_t> order = {0, 1, 0};
  const State selected = state.Select(order);
  EXPECT_EQ(selected, Growing({3, 0, 3}, 4, 0));
  EXPECT_EQ(selected.entries()[0].value.dim(1), 3);
  const State states[] = {Growing({3, 0}, 9, -1), Growing({5}, 6, -1)};
  EXPECT_EQ(State::Stack(states), state);
  const State other[] = {Growing({3}, 4, 0), Numbered(1)};
  EXPECT_THROW(State::Stack(other), Error);
}

}  // namespace
}  // namespace adder
