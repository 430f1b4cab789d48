// Tests of ssd: the definition by hand, against the selective scan and finite differences; the CPU
// against the definition; whole sequences against chunks and rows.
#include "adder/ops/ssd/ssd.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/operator_test.h"
#include "adder/ops/selective_scan/selective_scan.h"

namespace adder {
namespace {

using test::AsType;
using test::ErrorOf;
using test::Near;
using test::RandomNormal;
using test::RoundedTo;
using test::SameBits;
using test::WeightedSum;
using test::WithRowGap;
using testing::HasSubstr;

struct Case {
  int64_t heads = 3;
  int64_t head_dim = 4;
  int64_t groups = 1;
  int64_t states = 5;
  bool options = true;  // D, dt_bias, interval and h0 are given
  double dt_spread = 1.5;
  double dt_min = 0;
  double dt_max = std::numeric_limits<double>::infinity();
};

std::string ToString(const Case& c, const SequenceLayout& layout) {
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < layout.sequences(); ++s) lengths.push_back(layout.length(s));
  return fmt::format("{} heads of {}, N {}, groups {}, {} options, sequences of {} rows", c.heads,
                     c.head_dim, c.states, c.groups, c.options ? "all" : "no",
                     fmt::join(lengths, ", "));
}

SsdInputs RandomInputs(Random& random, const Case& c, const SequenceLayout& layout) {
  const int64_t rows = layout.rows();
  SsdInputs in;
  in.x = RandomNormal(random, {rows, c.heads * c.head_dim});
  in.dt = RandomNormal(random, {rows, c.heads}, -1, c.dt_spread);
  in.A = RandomNormal(random, {c.heads});
  for (int64_t h = 0; h < c.heads; ++h) in.A.data<double>()[h] = -std::exp(in.A.data<double>()[h]);
  in.B = RandomNormal(random, {rows, c.groups * c.states});
  in.C = RandomNormal(random, {rows, c.groups * c.states});
  if (c.options) {
    in.D = RandomNormal(random, {c.heads});
    in.dt_bias = RandomNormal(random, {c.heads});
    in.interval = test::RandomUniform(random, {rows}, 0.2, 2);
    in.h0 = RandomNormal(random, {layout.sequences(), c.heads, c.head_dim, c.states});
  }
  in.layout = layout;
  in.head_dim = c.head_dim;
  in.groups = c.groups;
  in.dt_min = c.dt_min;
  in.dt_max = c.dt_max;
  return in;
}

Shape StateShape(const SsdInputs& in, int64_t count) {
  return {count, in.A.dim(0), in.head_dim, in.B.dim(1) / in.groups};
}

// Zeros in the shapes of a call's results.
SsdOutputs MakeOutputs(const SsdInputs& in, DType parameter) {
  return {.y = Tensor::Zeros(in.x.shape(), in.x.dtype()),
          .hT = Tensor::Zeros(StateShape(in, in.layout.sequences()), parameter),
          .chunk_states = Tensor::Zeros(StateShape(in, SsdChunks(in.layout)), parameter)};
}
SsdGradients MakeGradients(const SsdInputs& in, DType parameter) {
  const auto like = [](const Tensor& tensor) {
    return Tensor::Zeros(tensor.shape(), tensor.dtype());
  };
  const auto heads = [&] { return Tensor::Zeros({in.A.dim(0)}, parameter); };
  return {.dx = like(in.x),
          .ddt = like(in.dt),
          .dA = heads(),
          .dB = like(in.B),
          .dC = like(in.C),
          .dD = heads(),
          .d_dt_bias = heads(),
          .d_interval = Tensor::Zeros({in.layout.rows()}, parameter),
          .dh0 = MakeOutputs(in, parameter).hT};
}
std::vector<std::pair<std::string, Tensor SsdGradients::*>> AllGradients() {
  using G = SsdGradients;
  return {{"x", &G::dx},
          {"dt", &G::ddt},
          {"A", &G::dA},
          {"B", &G::dB},
          {"C", &G::dC},
          {"D", &G::dD},
          {"dt_bias", &G::d_dt_bias},
          {"interval", &G::d_interval},
          {"h0", &G::dh0}};
}

SsdInputs Rounded(const SsdInputs& in, DType activation) {
  SsdInputs r = in;
  for (Tensor* tensor : {&r.x, &r.dt, &r.B, &r.C}) *tensor = RoundedTo(activation, *tensor);
  for (Tensor* tensor : {&r.A, &r.D, &r.dt_bias, &r.interval, &r.h0}) {
    *tensor = RoundedTo(DType::kF32, *tensor);
  }
  return r;
}
SsdInputs Converted(const SsdInputs& in, DType activation = DType::kF32) {
  SsdInputs r = in;
  for (Tensor* tensor : {&r.x, &r.dt, &r.B, &r.C}) *tensor = AsType(activation, *tensor);
  for (Tensor* tensor : {&r.A, &r.D, &r.dt_bias, &r.interval, &r.h0}) {
    *tensor = AsType(DType::kF32, *tensor);
  }
  return r;
}

// ---- The reference ------------------------------------------------------------------------------

TEST(SsdReference, HandComputed) {
  const auto values = [](const Shape& shape, std::vector<double> v) {
    return Tensor::From<double>(shape, v);
  };
  SsdInputs in;
  in.x = values({2, 1}, {2.0, 3.0});
  in.dt = values({2, 1}, {0.5, -0.25});
  in.A = values({1}, {-0.7});
  in.B = values({2, 2}, {1.5, 1.0, -0.5, 2.0});
  in.C = values({2, 2}, {0.3, 0.0, 0.9, 1.0});
  in.D = values({1}, {0.1});
  in.dt_bias = values({1}, {0.2});
  in.interval = values({2}, {0.5, 2.0});
  in.h0 = values({1, 1, 1, 2}, {4.0, -1.0});
  in.layout = SequenceLayout::Single(2);
  in.dt_max = 1;
  const SsdOutputs out = MakeOutputs(in, DType::kF64);
  reference::Ssd(in, out);
  const double step0 = 0.5;  // softplus(0.7) is more than 1
  const double step1 = 2 * std::log1p(std::exp(-0.05));
  const double h1 = std::exp(-0.7 * step0) * 4.0 + step0 * 1.5 * 2.0;
  const double g1 = std::exp(-0.7 * step0) * -1.0 + step0 * 1.0 * 2.0;
  const double h2 = std::exp(-0.7 * step1) * h1 - step1 * 0.5 * 3.0;
  const double g2 = std::exp(-0.7 * step1) * g1 + step1 * 2.0 * 3.0;
  EXPECT_NEAR(out.y.data<double>()[0], 0.3 * h1 + 0.2, 1e-14);
  EXPECT_NEAR(out.y.data<double>()[1], 0.9 * h2 + g2 + 0.3, 1e-14);
  EXPECT_NEAR(out.hT.data<double>()[1], g2, 1e-14);
  EXPECT_EQ(out.chunk_states.data<double>()[0], 4.0);
}

// With A, dt and D the same for all channels of a head it is the selective scan.
TEST(SsdReference, IsASelectiveScan) {
  Random random(12);
  const Case c = {.heads = 4, .head_dim = 3, .groups = 2, .states = 5};
  const SequenceLayout layout({0, 5, 5, 12});
  const SsdInputs in = RandomInputs(random, c, layout);
  const SsdOutputs out = MakeOutputs(in, DType::kF64);
  reference::Ssd(in, out);
  const auto repeat = [&](const Tensor& heads) {  // [rows, heads] as [rows, channels]
    const Tensor channels = Tensor::Empty({heads.dim(0), 12}, DType::kF64);
    for (int64_t i = 0; i < channels.elements(); ++i) {
      channels.data<double>()[i] = heads.data<double>()[i / 12 * 4 + i % 12 / 3];
    }
    return channels;
  };
  SelectiveScanInputs scan;
  scan.x = in.x;
  scan.dt = repeat(in.dt);
  scan.A = Tensor::Empty({12, 5}, DType::kF64);
  for (int64_t i = 0; i < 60; ++i) scan.A.data<double>()[i] = in.A.data<double>()[i / 15];
  scan.B = in.B;
  scan.C = in.C;
  scan.D = repeat(in.D.Reshape({1, 4})).Reshape({12});
  scan.dt_bias = repeat(in.dt_bias.Reshape({1, 4})).Reshape({12});
  scan.interval = in.interval;
  scan.h0 = in.h0.Reshape({3, 12, 5});
  scan.layout = layout;
  scan.groups = 2;
  const SelectiveScanOutputs expected = {
      Tensor::Empty(in.x.shape(), DType::kF64), Tensor::Empty({3, 12, 5}, DType::kF64), {}};
  reference::SelectiveScan(scan, expected);
  EXPECT_TRUE(Near(out.y, expected.y, 1e-14));
  EXPECT_TRUE(Near(out.hT.Reshape({3, 12, 5}), expected.hT, 1e-14));
}

TEST(SsdReference, GradientsAgreeWithDifferences) {
  Random random(11);
  const std::vector<std::pair<Case, SequenceLayout>> cases = {
      {{}, SequenceLayout({0, 4, 4, 5, 9})},
      {{.options = false}, SequenceLayout::Single(6)},
      {{.heads = 4, .head_dim = 2, .groups = 2, .states = 1}, SequenceLayout::Uniform(3, 1)},
      {{.heads = 4, .groups = 4, .states = 3, .dt_min = 0.2, .dt_max = 0.6},
       SequenceLayout({0, 5, 7})}};
  for (const auto& [c, layout] : cases) {
    SCOPED_TRACE(ToString(c, layout));
    const SsdInputs in = RandomInputs(random, c, layout);
    const SsdOutputs out = MakeOutputs(in, DType::kF64);
    const Tensor dy = RandomNormal(random, in.x.shape());
    const Tensor dhT = RandomNormal(random, out.hT.shape());
    const auto loss = [&, &in = in] {
      reference::Ssd(in, out);
      return WeightedSum(dy, out.y) + WeightedSum(dhT, out.hT);
    };
    const SsdGradients g = MakeGradients(in, DType::kF64);
    reference::SsdBackward(in, dy, dhT, g);
    std::vector<test::CheckedInput> checked = {{"x", in.x, g.dx},
                                               {"dt", in.dt, g.ddt},
                                               {"A", in.A, g.dA},
                                               {"B", in.B, g.dB},
                                               {"C", in.C, g.dC}};
    if (c.options) {
      checked.insert(checked.end(), {{"D", in.D, g.dD},
                                     {"dt_bias", in.dt_bias, g.d_dt_bias},
                                     {"interval", in.interval, g.d_interval},
                                     {"h0", in.h0, g.dh0}});
    }
    test::ExpectGradients(loss, checked, random);
  }
}

// ---- The CPU ------------------------------------------------------------------------------------

void ExpectCpuMatchesReference(Random& random, const Case& c, const SequenceLayout& layout,
                               DType activation = DType::kF32) {
  SCOPED_TRACE(ToString(c, layout));
  const SsdInputs raw = RandomInputs(random, c, layout);
  const SsdInputs exact = Rounded(raw, activation);
  const SsdOutputs expected = MakeOutputs(exact, DType::kF64);
  reference::Ssd(exact, expected);
  const Tensor raw_dy = RandomNormal(random, raw.x.shape());
  const Tensor raw_dhT = RandomNormal(random, expected.hT.shape());
  const SsdGradients expected_g = MakeGradients(exact, DType::kF64);
  reference::SsdBackward(exact, RoundedTo(activation, raw_dy), RoundedTo(DType::kF32, raw_dhT),
                         expected_g);
  // Some 100 f32 roundings in a row, of sums whose terms cancel; results in the activation dtype
  // are rounded to it at the end.
  const double state = 2e-5;
  const double rounded = activation == DType::kF32    ? state
                         : activation == DType::kBF16 ? 0x1p-8
                                                      : 0x1p-11 + state;
  test::ForEveryInstructionSet([&] {
    const SsdInputs in = Converted(raw, activation);
    const SsdOutputs out = MakeOutputs(in, DType::kF32);
    Ssd(in, out);
    EXPECT_TRUE(Near(out.y, expected.y, rounded)) << "y";
    EXPECT_TRUE(Near(out.hT, expected.hT, state)) << "hT";
    EXPECT_TRUE(Near(out.chunk_states, expected.chunk_states, state));
    // Without states to keep, and for single rows by the recurrence itself.
    const SsdOutputs alone = {Tensor::Zeros(in.x.shape(), activation),
                              in.h0 ? in.h0.Clone() : MakeOutputs(in, DType::kF32).hT,
                              {}};
    SsdInputs in_place = in;
    if (in.h0) in_place.h0 = alone.hT;
    Ssd(in_place, alone);
    EXPECT_TRUE(Near(alone.y, expected.y, rounded)) << "y";
    EXPECT_TRUE(Near(alone.hT, expected.hT, state)) << "hT in place";

    const SsdGradients g = MakeGradients(in, DType::kF32);
    SsdBackward(in, out.chunk_states, raw_dy.To(activation), raw_dhT.To(DType::kF32), g);
    for (const auto& [name, member] : AllGradients()) {
      const bool is_activation = name == "x" || name == "dt" || name == "B" || name == "C";
      EXPECT_TRUE(Near(g.*member, expected_g.*member, is_activation ? rounded : state))
          << "gradient of " << name;
    }
  });
}

TEST(SsdCpu, MatchesTheReferenceOnAllLayouts) {
  Random random(1);
  for (const SequenceLayout& layout : test::SequenceLayouts()) {
    ExpectCpuMatchesReference(random, {}, layout);
    ExpectCpuMatchesReference(
        random, {.heads = 6, .head_dim = 19, .groups = 2, .states = 16, .options = false}, layout);
  }
}

TEST(SsdCpu, MatchesTheReferenceOnRandomShapes) {
  Random random(2);
  for (int i = 0; i < 16; ++i) {
    const auto groups = static_cast<int64_t>(1 + random.NextBelow(3));
    const Case c = {.heads = groups * static_cast<int64_t>(1 + random.NextBelow(6)),
                    .head_dim = static_cast<int64_t>(1 + random.NextBelow(35)),
                    .groups = groups,
                    .states = static_cast<int64_t>(1 + random.NextBelow(35)),
                    .options = i % 3 != 0};
    ExpectCpuMatchesReference(random, c, test::RandomLayout(random, 4, 90));
  }
  // The published models' sizes, and more than two chunks.
  ExpectCpuMatchesReference(random, {.heads = 2, .head_dim = 64, .states = 128},
                            SequenceLayout({0, 150, 151}));
}

TEST(SsdCpu, TakesAllDtypes) {
  Random random(3);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    ExpectCpuMatchesReference(random, {.heads = 4, .head_dim = 7, .groups = 2, .states = 21},
                              SequenceLayout({0, 1, 70, 70, 90}), dtype);
  }
}

TEST(SsdCpu, LimitsOfTheStep) {
  Random random(4);
  for (const double spread : {1.5, 30.0}) {
    ExpectCpuMatchesReference(random, {.dt_spread = spread, .dt_min = 0.1, .dt_max = 1.2},
                              SequenceLayout({0, 1, 70}));
  }
}

// Steps so large that nothing is left of the past, beside steps so small that nothing is lost.
TEST(SsdCpu, ExtremeSteps) {
  Random random(5);
  ExpectCpuMatchesReference(random, {.dt_spread = 40}, SequenceLayout({0, 70, 71}));
  ExpectCpuMatchesReference(random, {.options = false, .dt_spread = 200},
                            SequenceLayout::Single(60));
}

TEST(SsdCpu, TakesViewsOfOneProjection) {
  Random random(6);
  const SequenceLayout layout({0, 9, 10, 90});
  const SsdInputs dense =
      Converted(RandomInputs(random, {.heads = 4, .groups = 2, .states = 18}, layout));
  SsdInputs strided = dense;
  strided.x = WithRowGap(dense.x, 3);
  strided.dt = WithRowGap(dense.dt, 1);
  strided.B = WithRowGap(dense.B, 2);
  strided.C = WithRowGap(dense.C, 5);
  const Tensor dy = RandomNormal(random, dense.x.shape()).To(DType::kF32);
  test::ForEveryInstructionSet([&] {
    const SsdOutputs out = MakeOutputs(dense, DType::kF32);
    Ssd(dense, out);
    SsdOutputs strided_out = MakeOutputs(dense, DType::kF32);
    strided_out.y = WithRowGap(strided_out.y, 2);
    Ssd(strided, strided_out);
    EXPECT_TRUE(SameBits(strided_out.y, out.y));
    EXPECT_TRUE(SameBits(strided_out.hT, out.hT));
    const SsdGradients g = MakeGradients(dense, DType::kF32);
    SsdBackward(dense, out.chunk_states, dy, {}, g);
    SsdGradients apart = MakeGradients(dense, DType::kF32);
    for (Tensor* tensor : {&apart.dx, &apart.ddt, &apart.dB, &apart.dC}) {
      *tensor = WithRowGap(*tensor, 4);
    }
    // One gradient at a time.
    for (const auto& [name, member] : AllGradients()) {
      SsdGradients one;
      one.*member = apart.*member;
      SsdBackward(strided, out.chunk_states, WithRowGap(dy, 3), {}, one);
      EXPECT_TRUE(SameBits(apart.*member, g.*member)) << name;
    }
  });
}

// A sequence at once, in chunks, row by row: outputs, states and all gradients.
TEST(SsdCpu, WholeEqualsChunksEqualsRows) {
  Random random(7);
  constexpr int64_t kRows = 150;
  const SsdInputs in = Converted(
      RandomInputs(random, {.heads = 4, .groups = 2, .states = 18}, SequenceLayout::Single(kRows)));
  const Tensor dy = RandomNormal(random, in.x.shape()).To(DType::kF32);
  const SsdOutputs whole = MakeOutputs(in, DType::kF32);
  const Tensor dhT = RandomNormal(random, whole.hT.shape()).To(DType::kF32);
  Ssd(in, whole);
  const SsdGradients g = MakeGradients(in, DType::kF32);
  SsdBackward(in, whole.chunk_states, dy, dhT, g);
  for (const int64_t chunk : {1, 7, 64, 77}) {
    SCOPED_TRACE(chunk);
    struct Part {
      SsdInputs in;
      SsdOutputs out;
      int64_t row;
    };
    std::vector<Part> parts;
    Tensor h = in.h0;
    const Tensor y = Tensor::Zeros(in.x.shape(), DType::kF32);
    for (int64_t row = 0; row < kRows; row += chunk) {
      const int64_t rows = std::min(chunk, kRows - row);
      SsdInputs part = in;
      part.x = in.x.Rows(row, rows);
      part.dt = in.dt.Rows(row, rows);
      part.B = in.B.Rows(row, rows);
      part.C = in.C.Rows(row, rows);
      part.interval = in.interval.Rows(row, rows);
      part.h0 = h;
      part.layout = SequenceLayout::Single(rows);
      SsdOutputs out = MakeOutputs(part, DType::kF32);
      out.y = y.Rows(row, rows);
      Ssd(part, out);
      // The fast path of a single row leaves the same.
      const SsdOutputs inference = {
          Tensor::Zeros(part.x.shape(), DType::kF32), Tensor::Zeros(h.shape(), DType::kF32), {}};
      Ssd(part, inference);
      EXPECT_TRUE(Near(inference.y, out.y, 1e-5));
      EXPECT_TRUE(Near(inference.hT, out.hT, 1e-5));
      h = out.hT;
      parts.push_back({part, out, row});
    }
    EXPECT_TRUE(Near(y, whole.y, 1e-5));
    EXPECT_TRUE(Near(h, whole.hT, 1e-5));
    SsdGradients sum = MakeGradients(in, DType::kF32);
    Tensor dh = dhT;
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
      const int64_t rows = part->in.layout.rows();
      SsdGradients piece = sum;
      piece.dx = sum.dx.Rows(part->row, rows);
      piece.ddt = sum.ddt.Rows(part->row, rows);
      piece.dB = sum.dB.Rows(part->row, rows);
      piece.dC = sum.dC.Rows(part->row, rows);
      piece.d_interval = sum.d_interval.Rows(part->row, rows);
      SsdBackward(part->in, part->out.chunk_states, dy.Rows(part->row, rows), dh, piece);
      dh = sum.dh0.Clone();
    }
    for (const auto& [name, member] : AllGradients()) {
      EXPECT_TRUE(Near(sum.*member, g.*member, 2e-5)) << name;
    }
  }
}

TEST(SsdCpu, ResultsDoNotDependOnThreads) {
  const int threads = cpu::ThreadCount();
  Random random(9);
  const SsdInputs in =
      Converted(RandomInputs(random, {.heads = 10, .head_dim = 32, .groups = 2, .states = 33},
                             SequenceLayout({0, 130, 131, 200})));
  const Tensor dy = RandomNormal(random, in.x.shape()).To(DType::kF32);
  std::vector<SsdOutputs> outs;
  std::vector<SsdGradients> gs;
  for (const int count : {1, 2, 3, 7}) {
    cpu::SetThreadCount(count);
    outs.push_back(MakeOutputs(in, DType::kF32));
    gs.push_back(MakeGradients(in, DType::kF32));
    Ssd(in, outs.back());
    SsdBackward(in, outs.back().chunk_states, dy, {}, gs.back());
    EXPECT_TRUE(SameBits(outs.back().y, outs.front().y));
    EXPECT_TRUE(SameBits(outs.back().hT, outs.front().hT));
    for (const auto& [name, member] : AllGradients()) {
      EXPECT_TRUE(SameBits(gs.back().*member, gs.front().*member)) << name;
    }
  }
  cpu::SetThreadCount(threads);
}

// ---- Bad arguments ------------------------------------------------------------------------------

TEST(SsdCpu, SumsOverNoHeadsAreZero) {
  SsdInputs in;
  in.x = Tensor::Zeros({5, 0}, DType::kF32);
  in.dt = in.x;
  in.A = Tensor::Zeros({0}, DType::kF32);
  in.B = in.C = Tensor::Zeros({5, 4}, DType::kF32);
  in.layout = SequenceLayout::Single(5);
  const std::vector<float> old(20, 3.0f);
  SsdGradients gradients;
  gradients.dB = Tensor::From<float>({5, 4}, old);
  gradients.dC = Tensor::From<float>({5, 4}, old);
  gradients.d_interval = Tensor::From<float>({5}, std::span(old).first(5));
  SsdBackward(in, Tensor::Zeros({1, 0, 1, 4}, DType::kF32), in.x, {}, gradients);
  for (const Tensor& sum : {gradients.dB, gradients.dC, gradients.d_interval}) {
    EXPECT_TRUE(SameBits(sum, Tensor::Zeros(sum.shape(), DType::kF32)));
  }
}

TEST(Ssd, RefusesWhatDoesNotFit) {
  const auto zeros = [](const Shape& shape, DType dtype = DType::kF32) {
    return Tensor::Zeros(shape, dtype);
  };
  SsdInputs good;
  good.x = zeros({5, 12});
  good.dt = zeros({5, 4});
  good.A = zeros({4});
  good.B = zeros({5, 6});
  good.C = zeros({5, 6});
  good.layout = SequenceLayout({0, 2, 5});
  good.head_dim = 3;
  good.groups = 2;
  const auto message = [&](auto change) {
    SsdInputs in = good;
    change(in);
    return ErrorOf([&] { Ssd(in, {zeros({5, 12}), {}, {}}); });
  };
  using In = SsdInputs;
  EXPECT_THAT(message([](In& in) { in.x = {}; }), HasSubstr("ssd: x is not given"));
  EXPECT_THAT(message([](In& in) { in.B = {}; }), HasSubstr("B is not given"));
  EXPECT_THAT(message([](In& in) { in.head_dim = 5; }), HasSubstr("a head has 5 channels"));
  EXPECT_THAT(message([](In& in) { in.head_dim = 0; }), HasSubstr("a head has 0 channels"));
  EXPECT_THAT(message([](In& in) { in.groups = 3; }), HasSubstr("there are 3 groups"));
  EXPECT_THAT(message([](In& in) { in.groups = 4; }), HasSubstr("multiple of the 4 groups"));
  EXPECT_THAT(message([](In& in) { in.layout = SequenceLayout::Single(4); }),
              HasSubstr("the layout has 4 rows, x has 5"));
  EXPECT_THAT(message([](In& in) { in.dt_min = -1; }), HasSubstr("dt is limited to -1 to inf"));
  EXPECT_THAT(message([](In& in) { in.dt_min = NAN; }), HasSubstr("dt is limited to nan"));
  EXPECT_THAT(message([](In& in) {
                in.dt_min = 2;
                in.dt_max = 1;
              }),
              HasSubstr("dt is limited to 2 to 1"));
  EXPECT_THAT(message([&](In& in) { in.dt = zeros({5, 5}); }), HasSubstr("dt is f32 [5, 5]"));
  EXPECT_THAT(message([&](In& in) { in.dt = zeros({5, 4}, DType::kF16); }), HasSubstr("dt is f16"));
  EXPECT_THAT(message([&](In& in) { in.C = zeros({5, 4}); }), HasSubstr("C is f32 [5, 4]"));
  EXPECT_THAT(message([&](In& in) { in.A = zeros({5}); }), HasSubstr("A is f32 [5]"));
  EXPECT_THAT(message([&](In& in) { in.interval = zeros({4}); }), HasSubstr("interval is f32 [4]"));
  EXPECT_THAT(message([&](In& in) { in.h0 = zeros({2, 4, 3, 4}); }), HasSubstr("h0 is f32"));
  EXPECT_THAT(ErrorOf([&] { Ssd(good, {zeros({5, 11}), {}, {}}); }), HasSubstr("y is f32"));
  EXPECT_THAT(ErrorOf([&] {
                Ssd(good, {zeros({5, 12}), {}, zeros({1, 4, 3, 3})});
              }),
              HasSubstr("chunk_states is f32 [1, 4, 3, 3]"));
  // What is written lies apart, but for hT, which may be h0.
  const auto over = [](const Tensor& tensor, const Shape& shape) {
    return Tensor::Wrap(tensor.raw(), shape, DType::kF32);
  };
  EXPECT_THAT(ErrorOf([&] { Ssd(good, {good.x, {}, {}}); }), HasSubstr("y lies on x"));
  const Tensor states = zeros({3, 4, 3, 3});
  SsdInputs shifted = good;
  shifted.h0 = states.Rows(0, 2);
  EXPECT_THAT(ErrorOf([&] {
                Ssd(shifted, {zeros({5, 12}), states.Rows(1, 2), {}});
              }),
              HasSubstr("hT lies on h0, but not element on element"));
  Ssd(shifted, {zeros({5, 12}), shifted.h0, {}});
  EXPECT_THAT(ErrorOf([&] {
                Ssd(good, {zeros({5, 12}), states.Rows(0, 2), states.Rows(1, 2)});
              }),
              HasSubstr("chunk_states lies on hT"));
  const auto backward = [&](const SsdGradients& gradients) {
    return ErrorOf([&] { SsdBackward(good, states.Rows(0, 2), zeros({5, 12}), {}, gradients); });
  };
  SsdGradients gradients;
  gradients.dB = good.C;
  EXPECT_THAT(backward(gradients), HasSubstr("dB lies on C"));
  gradients.dB = zeros({5, 6});
  gradients.d_interval = over(gradients.dB, {5});
  EXPECT_THAT(backward(gradients), HasSubstr("d_interval lies on dB"));
  EXPECT_THAT(ErrorOf([&] {
                SsdBackward(good, {}, zeros({5, 12}), {}, {});
              }),
              HasSubstr("ssd backward: chunk_states is not given"));
  EXPECT_THAT(ErrorOf([&] {
                SsdBackward(good, zeros({2, 4, 3, 3}), zeros({5, 11}), {}, {});
              }),
              HasSubstr("dy is f32 [5, 11]"));
}

}  // namespace
}  // namespace adder
