// attention on a CUDA device computes what it computes on the CPU.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/core/error.h"
#include "adder/ops/attention/attention.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::kCuda;
using test::MaxAbs;
using test::Near;
using test::OnCpu;
using test::OnCuda;
using test::RandomNormal;
using test::SameBits;
using AttentionCudaTest = test::CudaTest;

struct Case {
  int64_t heads = 3;
  int64_t kv_heads = 3;
  int64_t d_head = 64;
  int64_t most_before = 0;  // keys that each sequence has beyond its rows, up to that many
  int64_t gap = 0;          // keys between sequences
  DType q = DType::kF32;
  DType keys = DType::kF32;
  int64_t row_gap = 0;  // elements between rows
  double scale = 0;     // 0: 1 / √d_head
};

AttentionInputs RandomInputs(Random& random, const Case& c, const SequenceLayout& layout) {
  AttentionInputs in;
  int64_t key_rows = layout.rows();
  if (c.most_before + c.gap > 0 && layout.sequences() > 0) {
    int64_t begin = 0;
    for (int64_t s = 0; s < layout.sequences(); ++s) {
      begin += c.gap;
      const auto before =
          static_cast<int64_t>(random.NextBelow(static_cast<uint64_t>(c.most_before) + 1));
      in.key_ranges.push_back({begin, before + layout.length(s)});
      begin += before + layout.length(s);
    }
    key_rows = begin + c.gap;
  }
  const auto rows = [&](int64_t count, int64_t columns, DType dtype, double stddev) {
    const Tensor t = RandomNormal(random, {count, columns}, 0, stddev).To(dtype);
    return c.row_gap > 0 ? test::WithRowGap(t, c.row_gap) : t;
  };
  in.q = rows(layout.rows(), c.heads * c.d_head, c.q, 1.5);
  in.keys = rows(key_rows, c.kv_heads * c.d_head, c.keys, 1.5);
  in.values = rows(key_rows, c.kv_heads * c.d_head, c.keys, 1);
  in.layout = layout;
  in.heads = c.heads;
  in.kv_heads = c.kv_heads;
  in.scale = c.scale != 0 ? c.scale : 1 / std::sqrt(static_cast<double>(c.d_head));
  return in;
}

AttentionInputs Moved(const AttentionInputs& in) {
  AttentionInputs moved = in;
  moved.q = OnCuda(in.q);
  moved.keys = OnCuda(in.keys);
  moved.values = OnCuda(in.values);
  return moved;
}

// Filled with NaN: every element must be written.
Tensor Unwritten(const Tensor& like, DType dtype, Device device) {
  const Tensor nan =
      Tensor::From<float>({1}, std::vector<float>{std::numeric_limits<float>::quiet_NaN()});
  const Tensor tensor = Tensor::Empty(like.shape(), DType::kF32);
  std::fill_n(tensor.data<float>(), tensor.elements(), nan.data<float>()[0]);
  return tensor.To(dtype).To(device);
}

AttentionOutputs MakeOutputs(const AttentionInputs& in, Device device) {
  return {Unwritten(in.q, in.q.dtype(), device),
          Tensor::Zeros({in.q.dim(0), in.heads}, DType::kF32, device)};
}
AttentionGradients MakeGradients(const AttentionInputs& in, Device device) {
  return {Unwritten(in.q, in.q.dtype(), device), Unwritten(in.keys, in.keys.dtype(), device),
          Unwritten(in.values, in.values.dtype(), device)};
}

double Unit(DType dtype) {
  return dtype == DType::kF32 ? 0 : dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
}

void ExpectAsOnCpu(Random& random, const Case& c, const SequenceLayout& layout) {
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < layout.sequences(); ++s) lengths.push_back(layout.length(s));
  SCOPED_TRACE(fmt::format(
      "{} heads of {}, {} for keys, up to {} keys before, {} and {}, row gap {}, sequences of {}",
      c.heads, c.d_head, c.kv_heads, c.most_before, DTypeName(c.q), DTypeName(c.keys), c.row_gap,
      fmt::join(lengths, ", ")));
  const AttentionInputs in = RandomInputs(random, c, layout);
  const AttentionInputs cuda_in = Moved(in);
  const AttentionOutputs out = MakeOutputs(in, {});
  const AttentionOutputs cuda_out = MakeOutputs(in, kCuda);
  Attention(in, out);
  Attention(cuda_in, cuda_out);
  // Probabilities are rounded to 16 bits on tensor cores, results everywhere.
  const double unit = Unit(c.q);
  const double forward = 1e-5 + 2 * unit;
  EXPECT_TRUE(Near(OnCpu(cuda_out.y), out.y, forward)) << "y";
  const double statistics = unit == 0 ? 3e-6 : 1e-5;
  EXPECT_TRUE(Near(OnCpu(cuda_out.log_sum_exp), out.log_sum_exp, statistics)) << "log_sum_exp";
  const AttentionOutputs alone = {Unwritten(in.q, c.q, kCuda), {}};
  Attention(cuda_in, alone);
  EXPECT_TRUE(SameBits(OnCpu(alone.y), OnCpu(cuda_out.y)));

  const Tensor dy = RandomNormal(random, in.q.shape()).To(c.q);
  const AttentionGradients g = MakeGradients(in, {});
  const AttentionGradients cuda_g = MakeGradients(in, kCuda);
  const AttentionOutputs same = {OnCuda(out.y), OnCuda(out.log_sum_exp)};
  AttentionBackward(in, out, dy, g);
  AttentionBackward(cuda_in, same, OnCuda(dy), cuda_g);
  // Score gradients p · (dp - Σ p · dp) are rounded to 16 bits, and where a row sees few keys their
  // terms cancel.
  const auto expect_near = [&](const Tensor& actual, const Tensor& expected, const Tensor& factor,
                               DType dtype, const char* name) {
    const double terms = in.scale * MaxAbs(dy) * MaxAbs(in.values) * MaxAbs(factor);
    const double rounding = terms * (2e-6 + unit);
    const double scale = MaxAbs(expected);
    const double tolerance = 2e-5 + 2 * unit + Unit(dtype);
    if (scale * tolerance > rounding) {
      EXPECT_TRUE(Near(OnCpu(actual), expected, tolerance)) << name;
    } else if (scale > 0) {
      EXPECT_TRUE(Near(OnCpu(actual), expected, rounding / scale)) << name;
    } else {
      EXPECT_LE(MaxAbs(OnCpu(actual)), rounding) << name;
    }
  };
  expect_near(cuda_g.dq, g.dq, in.keys, c.q, "dq");
  expect_near(cuda_g.dkeys, g.dkeys, in.q, c.keys, "dkeys");
  EXPECT_TRUE(Near(OnCpu(cuda_g.dvalues), g.dvalues, 2e-5 + 2 * unit + Unit(c.keys))) << "dvalues";
  const AttentionGradients parts = MakeGradients(in, kCuda);
  AttentionBackward(cuda_in, same, OnCuda(dy), {parts.dq, {}, {}});
  AttentionBackward(cuda_in, same, OnCuda(dy), {{}, parts.dkeys, {}});
  AttentionBackward(cuda_in, same, OnCuda(dy), {{}, {}, parts.dvalues});
  EXPECT_TRUE(SameBits(OnCpu(parts.dq), OnCpu(cuda_g.dq)));
  EXPECT_TRUE(SameBits(OnCpu(parts.dkeys), OnCpu(cuda_g.dkeys)));
  EXPECT_TRUE(SameBits(OnCpu(parts.dvalues), OnCpu(cuda_g.dvalues)));
}

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

TEST_F(AttentionCudaTest, MatchesTheCpuOnAllLayouts) {
  Random random(1);
  for (const DType dtype : kDTypes) {
    for (const SequenceLayout& layout : test::SequenceLayouts()) {
      ExpectAsOnCpu(random, {.q = dtype, .keys = dtype}, layout);
      ExpectAsOnCpu(random,
                    {.heads = 4,
                     .kv_heads = 2,
                     .d_head = 16,
                     .most_before = 70,
                     .gap = 2,
                     .q = dtype,
                     .keys = dtype},
                    layout);
    }
  }
}

// A row each of sequences whose lengths only the device knows: some of the spans that they have
// room for have no keys.
TEST_F(AttentionCudaTest, TakesLengthsFromTheDevice) {
  Random random(11);
  for (const DType dtype : kDTypes) {
    for (const auto& [heads, kv_heads, d_head] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
             {4, 4, 64}, {6, 2, 80}, {71, 1, 64}, {2, 1, 256}}) {
      for (const int64_t room : {1, 30, 257, 3000}) {
        const std::vector<int64_t> lengths = {0, room - 1, room / 2, room / 7, room - 1};
        const auto sequences = static_cast<int64_t>(lengths.size());
        AttentionInputs in = RandomInputs(
            random, {.heads = heads, .kv_heads = kv_heads, .d_head = d_head, .q = dtype},
            SequenceLayout::Uniform(sequences, 1));
        in.keys = RandomNormal(random, {sequences * room, kv_heads * d_head}).To(dtype);
        in.values = RandomNormal(random, in.keys.shape()).To(dtype);
        for (int64_t s = 0; s < sequences; ++s) in.key_ranges.push_back({s * room, room});
        in.lengths = Tensor::From<int64_t>({sequences}, lengths);
        AttentionInputs cuda_in = Moved(in);
        cuda_in.lengths = OnCuda(in.lengths);
        const AttentionOutputs out = MakeOutputs(in, {});
        const AttentionOutputs cuda_out = MakeOutputs(in, kCuda);
        Attention(in, out);
        Attention(cuda_in, cuda_out);
        SCOPED_TRACE(fmt::format("{} heads of {}, {} for keys, {}, room for {}", heads, d_head,
                                 kv_heads, DTypeName(dtype), room));
        const double unit = Unit(dtype);
        EXPECT_TRUE(Near(OnCpu(cuda_out.y), out.y, 1e-5 + 2 * unit));
        EXPECT_TRUE(Near(OnCpu(cuda_out.log_sum_exp), out.log_sum_exp, unit == 0 ? 3e-6 : 1e-5));
      }
    }
  }
}

TEST_F(AttentionCudaTest, MatchesTheCpuOnAllHeadSizes) {
  Random random(2);
  for (const DType dtype : kDTypes) {
    for (const int64_t d_head : {1, 3, 8, 20, 40, 64, 72, 80, 96, 128, 130, 192, 256}) {
      ExpectAsOnCpu(random,
                    {.heads = 4,
                     .kv_heads = 2,
                     .d_head = d_head,
                     .most_before = 150,
                     .gap = 1,
                     .q = dtype,
                     .keys = dtype},
                    SequenceLayout({0, 1, 34, 34, 180}));
    }
  }
}

TEST_F(AttentionCudaTest, MatchesTheCpuOnLongSequences) {
  Random random(3);
  for (const DType dtype : kDTypes) {
    for (const int64_t d_head : {64, 128}) {
      const Case c = {.heads = 2, .kv_heads = 2, .d_head = d_head, .q = dtype, .keys = dtype};
      ExpectAsOnCpu(random, c, SequenceLayout({0, 700, 701, 1000}));
      Case grouped = c;
      grouped.heads = 6;
      grouped.row_gap = 8;
      grouped.most_before = 300;
      ExpectAsOnCpu(random, grouped, SequenceLayout({0, 201, 331}));
      grouped.row_gap = 3;
      ExpectAsOnCpu(random, grouped, SequenceLayout({0, 20, 90}));
    }
  }
}

// Decoding: few rows of many keys, cut into spans.
TEST_F(AttentionCudaTest, FewRowsOfManyKeys) {
  Random random(4);
  for (const DType dtype : kDTypes) {
    for (const int64_t heads : {2, 6, 40}) {
      ExpectAsOnCpu(random,
                    {.heads = heads,
                     .kv_heads = 2,
                     .d_head = 128,
                     .most_before = 3000,
                     .gap = 3,
                     .q = dtype,
                     .keys = dtype},
                    SequenceLayout({0, 1, 2, 2, 3, 10}));
    }
    ExpectAsOnCpu(
        random,
        {.heads = 18, .kv_heads = 18, .d_head = 80, .most_before = 600, .q = dtype, .keys = dtype},
        SequenceLayout::Uniform(30, 1));
    ExpectAsOnCpu(
        random,
        {.heads = 1, .kv_heads = 1, .d_head = 256, .most_before = 2000, .q = dtype, .keys = dtype},
        SequenceLayout({0, 1, 50}));
  }
}

TEST_F(AttentionCudaTest, TakesAllDtypes) {
  Random random(5);
  for (const DType q : kDTypes) {
    for (const DType keys : kDTypes) {
      ExpectAsOnCpu(random,
                    {.heads = 4,
                     .kv_heads = 2,
                     .d_head = 21,
                     .most_before = 90,
                     .gap = 1,
                     .q = q,
                     .keys = keys,
                     .row_gap = 1},
                    SequenceLayout({0, 1, 20, 20, 37, 120}));
    }
  }
}

TEST_F(AttentionCudaTest, NegativeScales) {
  Random random(6);
  for (const DType dtype : kDTypes) {
    for (const double scale : {-0.3, -1e-30}) {
      ExpectAsOnCpu(random, {.d_head = 16, .q = dtype, .keys = dtype, .scale = scale},
                    SequenceLayout({0, 1, 90}));
    }
  }
}

TEST_F(AttentionCudaTest, ScoresPastTheRangeOfExponentials) {
  Random random(7);
  for (const SequenceLayout& layout : {SequenceLayout::Single(90), SequenceLayout::Single(1)}) {
    for (const DType dtype : kDTypes) {
      const AttentionInputs in = RandomInputs(
          random,
          {.d_head = 8, .most_before = 80, .gap = 1, .q = dtype, .keys = dtype, .scale = 200},
          layout);
      const AttentionOutputs out = MakeOutputs(in, {});
      const AttentionOutputs cuda_out = MakeOutputs(in, kCuda);
      Attention(in, out);
      Attention(Moved(in), cuda_out);
      EXPECT_TRUE(Near(OnCpu(cuda_out.y), out.y, 5e-3 + 2 * Unit(dtype)));
    }
  }
}

TEST_F(AttentionCudaTest, TakesViewsOfOneProjection) {
  Random random(8);
  for (const DType dtype : kDTypes) {
    const Tensor qkv = OnCuda(RandomNormal(random, {230, 8 * 64}).To(dtype));
    AttentionInputs in;
    in.q = qkv.Columns(0, 256);
    in.keys = qkv.Columns(256, 128);
    in.values = qkv.Columns(384, 128);
    in.layout = SequenceLayout({0, 9, 10, 230});
    in.heads = 4;
    in.kv_heads = 2;
    in.scale = 0.125;
    AttentionInputs dense = in;
    for (Tensor* tensor : {&dense.q, &dense.keys, &dense.values}) *tensor = tensor->Clone();
    const AttentionOutputs out = MakeOutputs(dense, kCuda);
    const AttentionOutputs strided = MakeOutputs(dense, kCuda);
    Attention(dense, out);
    Attention(in, strided);
    EXPECT_TRUE(SameBits(OnCpu(strided.y), OnCpu(out.y)));
    const AttentionGradients g = MakeGradients(dense, kCuda);
    AttentionBackward(dense, out, out.y, g);
    const Tensor dqkv = Tensor::Zeros(qkv.shape(), dtype, kCuda);
    AttentionBackward(in, strided, out.y,
                      {dqkv.Columns(0, 256), dqkv.Columns(256, 128), dqkv.Columns(384, 128)});
    EXPECT_TRUE(SameBits(OnCpu(dqkv.Columns(0, 256)), OnCpu(g.dq)));
    EXPECT_TRUE(SameBits(OnCpu(dqkv.Columns(256, 128)), OnCpu(g.dkeys)));
    EXPECT_TRUE(SameBits(OnCpu(dqkv.Columns(384, 128)), OnCpu(g.dvalues)));
  }
}

// Keys and values past 2^31 elements: those at the end of a large cache give what they give alone.
TEST_F(AttentionCudaTest, IndexesInSixtyFourBits) {
  test::WithLargeMemory([] {
    Random random(9);
    constexpr int64_t kKeyRows = (int64_t{1} << 21) + 4096;
    for (const int64_t rows : {2, 200}) {  // spans and tiles
      AttentionInputs in = Moved(RandomInputs(
          random,
          {.heads = 8, .kv_heads = 8, .d_head = 128, .q = DType::kBF16, .keys = DType::kBF16},
          SequenceLayout::Single(rows)));
      in.key_ranges = {{0, rows}};
      const AttentionOutputs out = MakeOutputs(in, kCuda);
      Attention(in, out);
      const AttentionGradients g = MakeGradients(in, kCuda);
      AttentionBackward(in, out, out.y, g);
      AttentionInputs large = in;
      const auto at_the_end = [&](const Tensor& small) {
        const Tensor tensor = Tensor::Empty({kKeyRows, 1024}, DType::kBF16, kCuda);
        tensor.Rows(kKeyRows - rows, rows).CopyFrom(small);
        return tensor;
      };
      large.keys = at_the_end(in.keys);
      large.values = at_the_end(in.values);
      large.key_ranges = {{kKeyRows - rows, rows}};
      const AttentionOutputs large_out = MakeOutputs(in, kCuda);
      Attention(large, large_out);
      EXPECT_TRUE(SameBits(OnCpu(large_out.y), OnCpu(out.y)));
      const AttentionGradients large_g = {Unwritten(in.q, DType::kBF16, kCuda),
                                          Tensor::Empty({kKeyRows, 1024}, DType::kBF16, kCuda),
                                          Tensor::Empty({kKeyRows, 1024}, DType::kBF16, kCuda)};
      AttentionBackward(large, large_out, large_out.y, large_g);
      EXPECT_TRUE(SameBits(OnCpu(large_g.dq), OnCpu(g.dq)));
      EXPECT_TRUE(SameBits(OnCpu(large_g.dkeys.Rows(kKeyRows - rows, rows)), OnCpu(g.dkeys)));
      EXPECT_TRUE(SameBits(OnCpu(large_g.dvalues.Rows(kKeyRows - rows, rows)), OnCpu(g.dvalues)));
      EXPECT_EQ(MaxAbs(OnCpu(large_g.dkeys.Rows(kKeyRows - 2 * rows, rows))), 0);
    }
  });
}

TEST_F(AttentionCudaTest, RefusesHeadsThatAreTooLong) {
  AttentionInputs in;
  in.q = in.keys = in.values = Tensor::Zeros({2, 257}, DType::kBF16, kCuda);
  in.layout = SequenceLayout::Single(2);
  try {
    Attention(in, {Tensor::Zeros({2, 257}, DType::kBF16, kCuda), {}});
    ADD_FAILURE() << "no error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), testing::HasSubstr("heads of 257 channels, at most 256"));
  }
}

}  // namespace
}  // namespace adder
