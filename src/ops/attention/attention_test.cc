// Tests of attention: the definition by hand and against finite differences, the CPU against it,
// and what holds however a sequence is cut.
#include "adder/ops/attention/attention.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>

#include <cmath>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::ErrorOf;
using test::ForEveryInstructionSet;
using test::MaxAbs;
using test::Near;
using test::RandomNormal;
using test::RoundedTo;
using test::SameBits;
using testing::HasSubstr;

struct Case {
  int64_t heads = 3;
  int64_t kv_heads = 3;
  int64_t d_head = 5;
  // Keys that each sequence has beyond its rows (up to that many), and between sequences.
  int64_t most_before = 0;
  int64_t gap = 0;
};

std::string ToString(const Case& c, const SequenceLayout& layout) {
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < layout.sequences(); ++s) lengths.push_back(layout.length(s));
  return fmt::format("{} heads of {}, {} for keys, up to {} keys before, sequences of {} rows",
                     c.heads, c.d_head, c.kv_heads, c.most_before, fmt::join(lengths, ", "));
}

// In f64.
AttentionInputs RandomInputs(Random& random, const Case& c, const SequenceLayout& layout) {
  AttentionInputs in;
  int64_t key_rows = layout.rows();
  if (c.most_before + c.gap > 0) {
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
  in.q = RandomNormal(random, {layout.rows(), c.heads * c.d_head}, 0, 1.5);
  in.keys = RandomNormal(random, {key_rows, c.kv_heads * c.d_head}, 0, 1.5);
  in.values = RandomNormal(random, {key_rows, c.kv_heads * c.d_head});
  in.layout = layout;
  in.heads = c.heads;
  in.kv_heads = c.kv_heads;
  in.scale = 1 / std::sqrt(static_cast<double>(c.d_head));
  return in;
}

AttentionInputs Converted(const AttentionInputs& in, DType q, DType keys) {
  AttentionInputs result = in;
  result.q = in.q.To(q);
  result.keys = in.keys.To(keys);
  result.values = in.values.To(keys);
  return result;
}
AttentionInputs Rounded(const AttentionInputs& in, DType q, DType keys) {
  AttentionInputs result = in;
  result.q = RoundedTo(q, in.q);
  result.keys = RoundedTo(keys, in.keys);
  result.values = RoundedTo(keys, in.values);
  return result;
}

AttentionOutputs MakeOutputs(const AttentionInputs& in, DType statistics) {
  return {Tensor::Zeros(in.q.shape(), in.q.dtype()),
          Tensor::Zeros({in.q.dim(0), in.heads}, statistics)};
}
AttentionGradients MakeGradients(const AttentionInputs& in) {
  const auto like = [](const Tensor& tensor) {
    const Tensor nan = Tensor::Empty(tensor.shape(), DType::kF64);
    std::fill_n(nan.data<double>(), nan.elements(), std::numeric_limits<double>::quiet_NaN());
    return nan.To(tensor.dtype());
  };
  return {like(in.q), like(in.keys), like(in.values)};
}

// ---- The reference ------------------------------------------------------------------------------

TEST(AttentionReference, HandComputed) {
  const auto values = [](const Shape& shape, std::vector<double> v) {
    return Tensor::From<double>(shape, v);
  };
  AttentionInputs in;
  // Two heads of one channel that share a key head; one key from before.
  in.q = values({2, 2}, {1, 2, -1, 0.5});
  in.keys = values({3, 1}, {0.3, -0.2, 0.7});
  in.values = values({3, 1}, {10, 20, 40});
  in.layout = SequenceLayout::Single(2);
  in.key_ranges = {{0, 3}};
  in.heads = 2;
  in.scale = 2;
  const AttentionOutputs out = MakeOutputs(in, DType::kF64);
  reference::Attention(in, out);
  const double a = std::exp(2 * 2 * 0.3);
  const double b = std::exp(2 * 2 * -0.2);
  EXPECT_NEAR(out.y.data<double>()[1], (10 * a + 20 * b) / (a + b), 1e-13);
  EXPECT_NEAR(out.log_sum_exp.data<double>()[1], std::log(a + b), 1e-14);
  const double c = std::exp(-2 * 0.3);
  const double d = std::exp(-2 * -0.2);
  const double e = std::exp(-2 * 0.7);
  EXPECT_NEAR(out.y.data<double>()[2], (10 * c + 20 * d + 40 * e) / (c + d + e), 1e-13);
}

TEST(AttentionReference, GradientsAgreeWithDifferences) {
  Random random(1);
  const std::vector<std::pair<Case, SequenceLayout>> cases = {
      {{}, SequenceLayout({0, 4, 4, 5, 9})},
      {{.heads = 4, .kv_heads = 2, .d_head = 3, .most_before = 5, .gap = 1},
       SequenceLayout({0, 3, 4})},
      {{.heads = 3, .kv_heads = 1, .d_head = 1}, SequenceLayout::Uniform(3, 2)}};
  for (const auto& [c, layout] : cases) {
    SCOPED_TRACE(ToString(c, layout));
    const AttentionInputs in = RandomInputs(random, c, layout);
    const AttentionOutputs out = MakeOutputs(in, DType::kF64);
    const Tensor dy = RandomNormal(random, in.q.shape());
    const AttentionGradients g = MakeGradients(in);
    reference::AttentionBackward(in, dy, g);
    test::ExpectGradients(
        [&, &in = in] {
          reference::Attention(in, out);
          return test::WeightedSum(dy, out.y);
        },
        {{"q", in.q, g.dq}, {"keys", in.keys, g.dkeys}, {"values", in.values, g.dvalues}}, random);
  }
}

// ---- The CPU ------------------------------------------------------------------------------------

void ExpectCpuMatchesReference(Random& random, const Case& c, const SequenceLayout& layout,
                               DType q = DType::kF32, DType keys = DType::kF32) {
  SCOPED_TRACE(ToString(c, layout));
  SCOPED_TRACE(fmt::format("{} and {}", DTypeName(q), DTypeName(keys)));
  const AttentionInputs raw = RandomInputs(random, c, layout);
  const AttentionInputs exact = Rounded(raw, q, keys);
  const AttentionOutputs expected = MakeOutputs(exact, DType::kF64);
  reference::Attention(exact, expected);
  const Tensor raw_dy = RandomNormal(random, raw.q.shape());
  const AttentionGradients expected_g = MakeGradients(exact);
  reference::AttentionBackward(exact, RoundedTo(q, raw_dy), expected_g);
  // Scores of size 20 in f32 move probabilities by some 1e-6; results are rounded to their dtype,
  // and with it y, from which the backward takes Σ p · dp.
  const auto tolerance = [](DType dtype) {
    return dtype == DType::kF32 ? 1e-5 : dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
  };
  const double through_y = 1e-5 + (q == DType::kF32 ? 0 : 4 * tolerance(q));
  // Where a row sees one key the terms p · (dp - Σ p · dp) cancel entirely.
  const auto expect_near = [&](const Tensor& actual, const Tensor& expected_gradient,
                               const Tensor& factor, double least) {
    const double terms = exact.scale * MaxAbs(raw_dy) * MaxAbs(exact.values) * MaxAbs(factor);
    const double rounding = terms * (q == DType::kF32 ? 2e-6 : 2 * tolerance(q));
    const double scale = MaxAbs(expected_gradient);
    if (scale > rounding) {
      EXPECT_TRUE(Near(actual, expected_gradient, std::max(least, rounding / scale)));
    } else {
      EXPECT_LE(MaxAbs(actual), 2 * rounding);
    }
  };
  ForEveryInstructionSet([&] {
    const AttentionInputs in = Converted(raw, q, keys);
    const AttentionOutputs out = MakeOutputs(in, DType::kF32);
    Attention(in, out);
    EXPECT_TRUE(Near(out.y, expected.y, tolerance(q)));
    EXPECT_TRUE(Near(out.log_sum_exp, expected.log_sum_exp, 2e-6));
    const AttentionOutputs alone = {Tensor::Zeros(in.q.shape(), q), {}};
    Attention(in, alone);
    EXPECT_TRUE(SameBits(alone.y, out.y));

    const AttentionGradients g = MakeGradients(in);
    const Tensor dy = raw_dy.To(q);
    AttentionBackward(in, out, dy, g);
    {
      SCOPED_TRACE("dq");
      expect_near(g.dq, expected_g.dq, exact.keys, through_y);
    }
    {
      SCOPED_TRACE("dkeys");
      expect_near(g.dkeys, expected_g.dkeys, exact.q, std::max(through_y, tolerance(keys)));
    }
    EXPECT_TRUE(Near(g.dvalues, expected_g.dvalues, tolerance(keys)));
    const AttentionGradients parts = MakeGradients(in);
    AttentionBackward(in, out, dy, {parts.dq, {}, {}});
    AttentionBackward(in, out, dy, {{}, parts.dkeys, {}});
    AttentionBackward(in, out, dy, {{}, {}, parts.dvalues});
    EXPECT_TRUE(SameBits(parts.dq, g.dq));
    EXPECT_TRUE(SameBits(parts.dkeys, g.dkeys));
    EXPECT_TRUE(SameBits(parts.dvalues, g.dvalues));
  });
}

TEST(AttentionCpu, MatchesTheReferenceOnAllLayouts) {
  Random random(2);
  for (const SequenceLayout& layout : test::SequenceLayouts()) {
    ExpectCpuMatchesReference(random, {}, layout);
    ExpectCpuMatchesReference(random, {.heads = 4, .kv_heads = 2, .d_head = 16, .most_before = 70},
                              layout);
  }
}

TEST(AttentionCpu, MatchesTheReferenceOnRandomShapes) {
  Random random(3);
  for (int i = 0; i < 12; ++i) {
    const auto kv_heads = static_cast<int64_t>(1 + random.NextBelow(3));
    const Case c = {.heads = kv_heads * static_cast<int64_t>(1 + random.NextBelow(4)),
                    .kv_heads = kv_heads,
                    .d_head = static_cast<int64_t>(1 + random.NextBelow(40)),
                    .most_before = i % 2 == 0 ? 0 : 100,
                    .gap = i % 3};
    ExpectCpuMatchesReference(random, c, test::RandomLayout(random, 4, 90));
  }
  // More than a tile of rows, of keys, of heads; heads of the published models' sizes.
  ExpectCpuMatchesReference(random, {.heads = 2, .kv_heads = 1, .d_head = 64},
                            SequenceLayout({0, 200, 201}));
  ExpectCpuMatchesReference(random, {.heads = 1, .kv_heads = 1, .d_head = 80},
                            SequenceLayout::Single(150));
  ExpectCpuMatchesReference(random, {.heads = 2, .kv_heads = 2, .d_head = 128, .most_before = 150},
                            SequenceLayout({0, 7, 70}));
  ExpectCpuMatchesReference(random, {.heads = 150, .kv_heads = 1, .d_head = 3, .most_before = 20},
                            SequenceLayout({0, 1, 4}));
}

TEST(AttentionCpu, SingleRowsOfManyKeys) {
  Random random(4);
  ExpectCpuMatchesReference(
      random, {.heads = 6, .kv_heads = 2, .d_head = 20, .most_before = 1200, .gap = 3},
      SequenceLayout({0, 1, 2, 2, 3, 7, 8}));
  ExpectCpuMatchesReference(random, {.heads = 18, .kv_heads = 18, .d_head = 7, .most_before = 600},
                            SequenceLayout::Uniform(3, 1));
}

TEST(AttentionCpu, TakesAllDtypes) {
  Random random(5);
  for (const DType q : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const DType keys : {DType::kF32, DType::kBF16, DType::kF16}) {
      ExpectCpuMatchesReference(
          random, {.heads = 4, .kv_heads = 2, .d_head = 21, .most_before = 90, .gap = 1},
          SequenceLayout({0, 1, 20, 20, 37}), q, keys);
    }
  }
}

TEST(AttentionCpu, TakesViewsOfOneProjection) {
  Random random(6);
  const SequenceLayout layout({0, 9, 10, 30});
  const Tensor qkv = RandomNormal(random, {30, 4 * 11 + 2 * 2 * 11}).To(DType::kF32);
  AttentionInputs in;
  in.q = qkv.Columns(0, 44);
  in.keys = qkv.Columns(44, 22);
  in.values = qkv.Columns(66, 22);
  in.layout = layout;
  in.heads = 4;
  in.kv_heads = 2;
  AttentionInputs dense = in;
  for (Tensor* tensor : {&dense.q, &dense.keys, &dense.values}) *tensor = tensor->Clone();
  ForEveryInstructionSet([&] {
    const AttentionOutputs out = MakeOutputs(dense, DType::kF32);
    Attention(dense, out);
    AttentionOutputs strided = MakeOutputs(dense, DType::kF32);
    strided.y = test::WithRowGap(strided.y, 3);
    Attention(in, strided);
    EXPECT_TRUE(SameBits(strided.y, out.y));
    const Tensor dy = out.y;
    const AttentionGradients g = MakeGradients(dense);
    AttentionBackward(dense, out, dy, g);
    const Tensor dqkv = Tensor::Zeros(qkv.shape(), DType::kF32);
    AttentionBackward(in, strided, test::WithRowGap(dy, 2),
                      {dqkv.Columns(0, 44), dqkv.Columns(44, 22), dqkv.Columns(66, 22)});
    EXPECT_TRUE(SameBits(dqkv.Columns(0, 44), g.dq));
    EXPECT_TRUE(SameBits(dqkv.Columns(44, 22), g.dkeys));
    EXPECT_TRUE(SameBits(dqkv.Columns(66, 22), g.dvalues));
  });
}

// A sequence read at once, in chunks, and row by row, its keys in one matrix.
TEST(AttentionCpu, WholeEqualsChunksEqualsRows) {
  Random random(7);
  const Case c = {.heads = 4, .kv_heads = 2, .d_head = 24};
  constexpr int64_t kRows = 300;
  const AttentionInputs in =
      Converted(RandomInputs(random, c, SequenceLayout::Single(kRows)), DType::kF32, DType::kF32);
  const Tensor dy = RandomNormal(random, in.q.shape()).To(DType::kF32);
  const AttentionOutputs whole = MakeOutputs(in, DType::kF32);
  Attention(in, whole);
  const AttentionGradients g = MakeGradients(in);
  AttentionBackward(in, whole, dy, g);
  for (const int64_t chunk : {1, 77}) {
    SCOPED_TRACE(chunk);
    const AttentionOutputs out = MakeOutputs(in, DType::kF32);
    const Tensor dq = Tensor::Zeros(in.q.shape(), DType::kF32);
    const Tensor dkeys = Tensor::Zeros(in.keys.shape(), DType::kF64);
    const Tensor dvalues = Tensor::Zeros(in.keys.shape(), DType::kF64);
    for (int64_t row = 0; row < kRows; row += chunk) {
      const int64_t rows = std::min(chunk, kRows - row);
      AttentionInputs part = in;
      part.q = in.q.Rows(row, rows);
      part.layout = SequenceLayout::Single(rows);
      part.key_ranges = {{0, row + rows}};
      const AttentionOutputs part_out = {out.y.Rows(row, rows), out.log_sum_exp.Rows(row, rows)};
      Attention(part, part_out);
      const AttentionGradients part_g = {dq.Rows(row, rows),
                                         Tensor::Empty(in.keys.shape(), DType::kF32),
                                         Tensor::Empty(in.keys.shape(), DType::kF32)};
      AttentionBackward(part, part_out, dy.Rows(row, rows), part_g);
      for (int64_t i = 0; i < dkeys.elements(); ++i) {
        dkeys.data<double>()[i] += static_cast<double>(part_g.dkeys.data<float>()[i]);
        dvalues.data<double>()[i] += static_cast<double>(part_g.dvalues.data<float>()[i]);
      }
    }
    // The same sums in other orders.
    EXPECT_TRUE(Near(out.y, whole.y, 3e-6));
    EXPECT_TRUE(Near(out.log_sum_exp, whole.log_sum_exp, 1e-6));
    EXPECT_TRUE(Near(dq, g.dq, 1e-5));
    EXPECT_TRUE(Near(dkeys, g.dkeys, 1e-5));
    EXPECT_TRUE(Near(dvalues, g.dvalues, 1e-5));
  }
}

TEST(AttentionCpu, ScoresPastTheRangeOfExponentials) {
  Random random(8);
  for (const SequenceLayout& layout : {SequenceLayout::Single(90), SequenceLayout::Single(1)}) {
    AttentionInputs raw = RandomInputs(random, {.d_head = 8, .most_before = 80, .gap = 1}, layout);
    raw.scale = 200;  // scores of some thousand
    const AttentionInputs exact = Rounded(raw, DType::kF32, DType::kF32);
    const AttentionOutputs expected = MakeOutputs(exact, DType::kF64);
    reference::Attention(exact, expected);
    ForEveryInstructionSet([&] {
      const AttentionInputs in = Converted(raw, DType::kF32, DType::kF32);
      const AttentionOutputs out = MakeOutputs(in, DType::kF32);
      Attention(in, out);
      EXPECT_TRUE(Near(out.y, expected.y, 5e-3));  // scores of 5000 have an error of 5e-4
    });
  }
}

TEST(AttentionCpu, ResultsDoNotDependOnThreads) {
  const int threads = cpu::ThreadCount();
  Random random(9);
  const AttentionInputs in =
      Converted(RandomInputs(random, {.heads = 6, .kv_heads = 3, .d_head = 32, .most_before = 900},
                             SequenceLayout({0, 300, 301, 333})),
                DType::kF32, DType::kF32);
  const Tensor dy = RandomNormal(random, in.q.shape()).To(DType::kF32);
  std::vector<AttentionOutputs> outs;
  std::vector<AttentionGradients> gs;
  for (const int count : {1, 2, 3, 5}) {
    cpu::SetThreadCount(count);
    outs.push_back(MakeOutputs(in, DType::kF32));
    gs.push_back(MakeGradients(in));
    Attention(in, outs.back());
    AttentionBackward(in, outs.back(), dy, gs.back());
    EXPECT_TRUE(SameBits(outs.back().y, outs.front().y));
    EXPECT_TRUE(SameBits(gs.back().dq, gs.front().dq));
    EXPECT_TRUE(SameBits(gs.back().dkeys, gs.front().dkeys));
    EXPECT_TRUE(SameBits(gs.back().dvalues, gs.front().dvalues));
  }
  cpu::SetThreadCount(threads);
}

// ---- Bad arguments ------------------------------------------------------------------------------

TEST(Attention, RefusesWhatDoesNotFit) {
  const auto zeros = [](const Shape& shape, DType dtype = DType::kF32) {
    return Tensor::Zeros(shape, dtype);
  };
  AttentionInputs good;
  good.q = zeros({5, 12});
  good.keys = zeros({9, 6});
  good.values = zeros({9, 6});
  good.layout = SequenceLayout({0, 2, 5});
  good.key_ranges = {{0, 4}, {5, 4}};
  good.heads = 4;
  good.kv_heads = 2;
  const auto message = [&](auto change) {
    AttentionInputs in = good;
    change(in);
    return ErrorOf([&] { Attention(in, {zeros({5, 12}), {}}); });
  };
  using In = AttentionInputs;
  EXPECT_THAT(message([](In& in) { in.q = {}; }), HasSubstr("attention: q is not given"));
  EXPECT_THAT(message([](In& in) { in.keys = {}; }), HasSubstr("keys is not given"));
  EXPECT_THAT(message([](In& in) { in.heads = 5; }), HasSubstr("there are 5 heads"));
  EXPECT_THAT(message([](In& in) { in.kv_heads = 0; }), HasSubstr("and 0 key and value heads"));
  EXPECT_THAT(message([](In& in) { in.heads = 8; }), HasSubstr("multiple of the 8 heads"));
  EXPECT_THAT(message([](In& in) { in.layout = SequenceLayout::Single(4); }),
              HasSubstr("the layout has 4 rows, q has 5"));
  EXPECT_THAT(message([](In& in) { in.scale = INFINITY; }), HasSubstr("scale is inf"));
  EXPECT_THAT(ErrorOf([&] { Attention(good, {good.q, {}}); }), HasSubstr("y lies on q"));
  EXPECT_THAT(ErrorOf([&] {
                const Tensor y = zeros({5, 12});
                Attention(good, {y, Tensor::Wrap(y.raw(), {5, 4}, DType::kF32)});
              }),
              HasSubstr("log_sum_exp lies on y"));
  const AttentionOutputs outputs = {zeros({5, 12}), zeros({5, 4})};
  const auto backward = [&](const AttentionGradients& gradients) {
    return ErrorOf([&] { AttentionBackward(good, outputs, zeros({5, 12}), gradients); });
  };
  EXPECT_THAT(backward({good.q, {}, {}}), HasSubstr("dq lies on q"));
  EXPECT_THAT(backward({outputs.y, {}, {}}), HasSubstr("dq lies on y"));
  const Tensor both = zeros({9, 6});
  EXPECT_THAT(backward({{}, both, both}), HasSubstr("dvalues lies on dkeys"));
  EXPECT_THAT(message([&](In& in) { in.values = zeros({8, 6}); }), HasSubstr("values is f32"));
  EXPECT_THAT(message([&](In& in) {
                in.values = zeros({9, 6}, DType::kF16);
              }),
              HasSubstr("values is f16"));
  EXPECT_THAT(message([](In& in) { in.key_ranges = {}; }), HasSubstr("keys has 9"));
  EXPECT_THAT(message([](In& in) { in.key_ranges.pop_back(); }),
              HasSubstr("there are 1 key ranges"));
  EXPECT_THAT(message([](In& in) { in.key_ranges[1].begin = 3; }),
              HasSubstr("the keys of sequence 1 are 4 from row 3 on, expected rows from 4 to 9"));
  EXPECT_THAT(message([](In& in) { in.key_ranges[1].count = 5; }),
              HasSubstr("the keys of sequence 1"));
  EXPECT_THAT(message([](In& in) { in.key_ranges[1].count = INT64_MAX; }),
              HasSubstr("the keys of sequence 1"));
  EXPECT_THAT(message([](In& in) { in.key_ranges[1].count = 2; }),
              HasSubstr("sequence 1 has 3 rows and 2 keys"));
  EXPECT_THAT(message([](In& in) { in.lengths = Tensor::Zeros({2}, DType::kI64); }),
              HasSubstr("sequence 0 has 2 rows, with lengths 1 is expected"));
  AttentionInputs step = good;
  step.q = zeros({2, 12});
  step.layout = SequenceLayout::Uniform(2, 1);
  const std::vector<int64_t> lengths = {3, 4};
  step.lengths = Tensor::From<int64_t>({2}, lengths);
  EXPECT_THAT(ErrorOf([&] {
                Attention(step, {zeros({2, 12}), {}});
              }),
              HasSubstr("sequence 1 has 4 keys before its row, its range has 4"));
  EXPECT_THAT(ErrorOf([&] { Attention(good, {zeros({5, 11}), {}}); }), HasSubstr("y is f32"));
  EXPECT_THAT(ErrorOf([&] {
                AttentionBackward(good, {zeros({5, 12}), {}}, zeros({5, 12}), {});
              }),
              HasSubstr("attention backward: log_sum_exp is not given"));
  EXPECT_THAT(ErrorOf([&] {
                AttentionBackward(good, {zeros({5, 12}), zeros({5, 4})}, zeros({5, 12}),
                                  {{}, zeros({9, 5}), {}});
              }),
              HasSubstr("dkeys is f32"));
}

}  // namespace
}  // namespace adder
