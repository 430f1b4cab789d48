// Recorded attention: gradients of everything, memory included, against differences; whole
// sequences against chunks; memory that grows, is replaced or overwritten.
#include <gmock/gmock.h>

#include <cmath>
#include <vector>

#include "adder/autograd/functions.h"
#include "adder/autograd/gradient_check_test.h"

namespace adder {
namespace {

using test::ErrorOf;
using test::ExpectLeafGradients;
using test::Near;
using test::RandomLeaf;
using test::RandomNormal;
using test::SameBits;

constexpr int64_t kHeads = 4;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kHead = 6;
constexpr int64_t kQ = kHeads * kHead;
constexpr int64_t kKv = kKvHeads * kHead;

Variable Attend(Tape* tape, const Variable& qkv, const SequenceLayout& layout,
                const AttentionMemory* memory, MemoryUpdate update = MemoryUpdate::kReplace) {
  return Attention(tape, qkv.Columns(0, kQ), qkv.Columns(kQ, kKv), qkv.Columns(kQ + kKv, kKv),
                   layout, kHeads, kKvHeads, 1 / std::sqrt(6.0), memory, update);
}

TEST(AttentionFunctionsTest, GradientsWithoutMemory) {
  Random random(1);
  const Variable qkv = RandomLeaf(random, {9, kQ + 2 * kKv});
  const SequenceLayout layout({0, 4, 4, 9});
  ExpectLeafGradients(
      [&](Tape* tape) { return std::vector<Variable>{Attend(tape, qkv, layout, nullptr)}; },
      {{qkv.value(), [&] { return qkv.grad(); }}});
}

TEST(AttentionFunctionsTest, GradientsWithMemory) {
  Random random(2);
  const SequenceLayout layout({0, 4, 4, 9});
  const std::vector<int64_t> lengths = {3, 2, 0};
  const Variable qkv = RandomLeaf(random, {9, kQ + 2 * kKv});
  const Variable keys = RandomLeaf(random, {3, 3, kKv});
  const Variable values = RandomLeaf(random, {3, 3, kKv});
  // Rows that are not filled are zero.
  for (const Variable* cache : {&keys, &values}) {
    cache->value().Rows(1, 1).Slice(1, 2, 1).SetZero();
    cache->value().Rows(2, 1).SetZero();
  }
  ExpectLeafGradients(
      [&](Tape* tape) {
        Variable new_keys = keys;
        Variable new_values = values;
        const AttentionMemory memory = {&new_keys, &new_values, lengths};
        const Variable y = Attend(tape, qkv, layout, &memory);
        EXPECT_EQ(new_keys.value().shape(), Shape({3, 7, kKv}));
        // The new memory is a result, too.
        return std::vector<Variable>{y, new_keys, new_values};
      },
      {{qkv.value(), [&] { return qkv.grad(); }},
       {keys.value(), [&] { return keys.grad(); }},
       {values.value(), [&] { return values.grad(); }}});
}

TEST(AttentionFunctionsTest, WholeEqualsChunksForwardsAndBackwards) {
  Random random(3);
  const std::vector<int64_t> total = {13, 0, 7};
  const SequenceLayout layout = SequenceLayout::FromLengths(total);
  const Tensor value = RandomNormal(random, {20, kQ + 2 * kKv}).To(DType::kF32);
  const Tensor seed = RandomNormal(random, {20, kQ}).To(DType::kF32);
  const Variable whole(value, true);
  Tape whole_tape;
  const Variable y = Attend(&whole_tape, whole, layout, nullptr);
  y.CollectGrad([&](const Tensor& target, bool) { target.CopyFrom(seed); });
  whole_tape.Backward();

  for (const int64_t chunk : {1, 4, 20}) {
    SCOPED_TRACE(chunk);
    Variable keys;
    Variable values;
    std::vector<int64_t> lengths = {0, 0, 0};
    Tape tape;
    std::vector<Variable> parts;
    std::vector<std::vector<int64_t>> rows_of;  // of the whole
    while (lengths != total) {
      std::vector<int64_t> counts;
      std::vector<int64_t> rows;
      for (size_t s = 0; s < total.size(); ++s) {
        counts.push_back(std::min(chunk, total[s] - lengths[s]));
        for (int64_t i = 0; i < counts.back(); ++i) {
          rows.push_back(layout.begin(static_cast<int64_t>(s)) + lengths[s] + i);
        }
      }
      const auto count = static_cast<int64_t>(rows.size());
      const Tensor part = Tensor::Empty({count, value.dim(1)}, DType::kF32);
      const Tensor part_seed = Tensor::Empty({count, kQ}, DType::kF32);
      for (int64_t i = 0; i < count; ++i) {
        part.Rows(i, 1).CopyFrom(value.Rows(rows[static_cast<size_t>(i)], 1));
        part_seed.Rows(i, 1).CopyFrom(seed.Rows(rows[static_cast<size_t>(i)], 1));
      }
      parts.emplace_back(part, true);
      const AttentionMemory memory = {&keys, &values, lengths};
      const Variable part_y =
          Attend(&tape, parts.back(), SequenceLayout::FromLengths(counts), &memory);
      for (int64_t i = 0; i < count; ++i) {
        EXPECT_TRUE(
            Near(part_y.value().Rows(i, 1), y.value().Rows(rows[static_cast<size_t>(i)], 1), 1e-5));
      }
      part_y.CollectGrad([&](const Tensor& target, bool) { target.CopyFrom(part_seed); });
      rows_of.push_back(rows);
      for (size_t s = 0; s < total.size(); ++s) lengths[s] += counts[s];
    }
    tape.Backward();
    const Tensor gradient = Tensor::Zeros(value.shape(), DType::kF32);
    for (size_t part = 0; part < parts.size(); ++part) {
      for (size_t i = 0; i < rows_of[part].size(); ++i) {
        gradient.Rows(rows_of[part][i], 1)
            .CopyFrom(parts[part].grad().Rows(static_cast<int64_t>(i), 1));
      }
    }
    EXPECT_TRUE(Near(gradient, whole.grad(), 1e-5));
  }
}

TEST(AttentionFunctionsTest, OverwrittenMemoryHoldsTheSameAsReplaced) {
  Random random(4);
  const SequenceLayout layout({0, 1, 3});
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    Variable keys(Tensor::Zeros({2, 0, kKv}, dtype));
    Variable values(Tensor::Zeros({2, 0, kKv}, dtype));
    Variable other_keys = keys;
    Variable other_values = values;
    std::vector<int64_t> lengths = {0, 0};
    int64_t moves = 0;
    for (int step = 0; step < 20; ++step) {
      const Variable qkv(RandomNormal(random, {3, kQ + 2 * kKv}).To(DType::kF32));
      const void* before = keys.value().raw();
      const AttentionMemory memory = {&keys, &values, lengths};
      const AttentionMemory other = {&other_keys, &other_values, lengths};
      const Variable y = Attend(nullptr, qkv, layout, &memory, MemoryUpdate::kOverwrite);
      const Tensor old = other_keys.value();
      const Tensor old_elements = old.Clone();
      const Variable other_y = Attend(nullptr, qkv, layout, &other);
      EXPECT_TRUE(SameBits(old, old_elements));
      EXPECT_TRUE(SameBits(y.value(), other_y.value()));
      EXPECT_TRUE(SameBits(keys.value(), other_keys.value()));
      EXPECT_TRUE(SameBits(values.value(), other_values.value()));
      EXPECT_EQ(keys.value().dtype(), dtype);
      moves += keys.value().raw() != before ? 1 : 0;
      lengths[0] += 1;
      lengths[1] += 2;
    }
    EXPECT_GE(keys.value().dim(1), 40);
    EXPECT_LE(moves, 12);  // 2 · 1.5^8 > 40, with roundings down
    EXPECT_EQ(test::MaxAbs(keys.value().Rows(0, 1).Slice(1, 20, keys.value().dim(1) - 20)), 0);
  }
}

TEST(AttentionFunctionsTest, LengthsMayLieOnTheDevice) {
  Random random(6);
  const SequenceLayout layout = SequenceLayout::Uniform(2, 1);
  Variable keys(RandomNormal(random, {2, 5, kKv}).To(DType::kBF16));
  Variable values(RandomNormal(random, {2, 5, kKv}).To(DType::kBF16));
  Variable other_keys(keys.value().Clone());
  Variable other_values(values.value().Clone());
  std::vector<int64_t> lengths = {2, 4};
  for (int step = 0; step < 6; ++step) {
    const Variable qkv(RandomNormal(random, {2, kQ + 2 * kKv}).To(DType::kF32));
    const Tensor device_lengths = Tensor::From<int64_t>({2}, lengths);
    const AttentionMemory memory = {&keys, &values, lengths, device_lengths};
    const AttentionMemory other = {&other_keys, &other_values, lengths};
    const Variable y = Attend(nullptr, qkv, layout, &memory, MemoryUpdate::kOverwrite);
    const Variable other_y = Attend(nullptr, qkv, layout, &other, MemoryUpdate::kOverwrite);
    EXPECT_TRUE(SameBits(y.value(), other_y.value()));
    EXPECT_TRUE(SameBits(keys.value(), other_keys.value()));
    EXPECT_TRUE(SameBits(values.value(), other_values.value()));
    for (int64_t& length : lengths) ++length;
    Tape tape;
    EXPECT_THROW(Attend(&tape, qkv, layout, &memory), Error);
  }
}

TEST(AttentionFunctionsTest, RefusesWhatDoesNotFit) {
  Random random(5);
  const Variable qkv(RandomNormal(random, {3, kQ + 2 * kKv}).To(DType::kF32));
  const SequenceLayout layout({0, 1, 3});
  const auto message = [&](const Tensor& cache, std::vector<int64_t> lengths) {
    Variable keys(cache);
    Variable values(cache);
    return ErrorOf([&] {
      const AttentionMemory memory = {&keys, &values, lengths};
      Attend(nullptr, qkv, layout, &memory);
    });
  };
  const Tensor cache = Tensor::Zeros({2, 5, kKv}, DType::kF32);
  EXPECT_THAT(message(cache, {1}), testing::HasSubstr("there are 1 lengths"));
  EXPECT_THAT(message(cache, {1, 6}), testing::HasSubstr("sequence 1 has 6 rows"));
  EXPECT_THAT(message(cache, {-1, 0}), testing::HasSubstr("sequence 0 has -1 rows"));
  EXPECT_THAT(message(Tensor::Zeros({3, 5, kKv}, DType::kF32), {1, 1}),
              testing::HasSubstr("expected those of 2 sequences"));
  EXPECT_THAT(message(Tensor::Zeros({2, 5, 7}, DType::kF32), {1, 1}),
              testing::HasSubstr("rows is f32"));
  EXPECT_THAT(message(Tensor::Zeros({2, 5, kKv}, DType::kI32), {1, 1}),
              testing::HasSubstr("cache is i32"));
  Tape tape;
  Variable keys(cache);
  Variable values(cache.Clone());
  const std::vector<int64_t> lengths = {1, 1};
  EXPECT_THAT(ErrorOf([&] {
                const AttentionMemory memory = {&keys, &values, lengths};
                Attend(&tape, qkv, layout, &memory, MemoryUpdate::kOverwrite);
              }),
              testing::HasSubstr("cannot be overwritten"));
}

}  // namespace
}  // namespace adder
