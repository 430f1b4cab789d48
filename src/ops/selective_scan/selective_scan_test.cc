#include "adder/ops/selective_scan/selective_scan.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/core/error.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::AsType;
using test::GapsUntouched;
using test::Near;
using test::NearAlong;
using test::RandomNormal;
using test::RandomUniform;
using test::RoundedTo;
using test::SameBits;
using test::WeightedSum;
using test::WithRowGap;

struct Case {
  int64_t channels = 5;
  int64_t states = 3;
  bool is_complex = false;
  int64_t groups = 1;
  bool options = true;     // D, dt_bias, z, interval and h0 are given
  double dt_spread = 1.5;  // standard deviation of dt
};

std::string ToString(const Case& c, const SequenceLayout& layout) {
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < layout.sequences(); ++s) lengths.push_back(layout.length(s));
  return fmt::format("D {}, N {}{}, groups {}, {} options, sequences of {} rows", c.channels,
                     c.states, c.is_complex ? " complex" : "", c.groups, c.options ? "all" : "no",
                     fmt::join(lengths, ", "));
}

Shape StateShape(const Case& c, int64_t count) {
  return c.is_complex ? Shape({count, c.channels, c.states, 2})
                      : Shape({count, c.channels, c.states});
}

// A stable model: Re A < 0, of several magnitudes.
Tensor RandomA(Random& random, const Case& c) {
  const Tensor A = c.is_complex ? RandomNormal(random, {c.channels, c.states, 2})
                                : RandomNormal(random, {c.channels, c.states});
  for (int64_t i = 0; i < A.elements(); i += c.is_complex ? 2 : 1) {
    A.data<double>()[i] = -std::exp(A.data<double>()[i]);
  }
  return A;
}

SelectiveScanInputs RandomInputs(Random& random, const Case& c, const SequenceLayout& layout) {
  const int64_t rows = layout.rows();
  const int64_t width = c.groups * c.states * (c.is_complex ? 2 : 1);
  SelectiveScanInputs in;
  in.x = RandomNormal(random, {rows, c.channels});
  in.dt = RandomNormal(random, {rows, c.channels}, -1, c.dt_spread);
  in.A = RandomA(random, c);
  in.B = RandomNormal(random, {rows, width});
  in.C = RandomNormal(random, {rows, width});
  if (c.options) {
    in.D = RandomNormal(random, {c.channels});
    in.dt_bias = RandomNormal(random, {c.channels});
    in.z = RandomNormal(random, {rows, c.channels}, 0, 2);
    in.interval = RandomUniform(random, {rows}, 0, 2);
    in.h0 = RandomNormal(random, StateShape(c, layout.sequences()));
  }
  in.layout = layout;
  in.groups = c.groups;
  return in;
}

// Zeros in the shapes of a call's results.
SelectiveScanOutputs MakeOutputs(const SelectiveScanInputs& in, DType parameter) {
  const Shape& A = in.A.shape();
  const auto states = [&](int64_t count) {
    return A.rank() == 3 ? Shape({count, A[0], A[1], 2}) : Shape({count, A[0], A[1]});
  };
  return {.y = Tensor::Zeros(in.x.shape(), in.x.dtype()),
          .hT = Tensor::Zeros(states(in.layout.sequences()), parameter),
          .chunk_states = Tensor::Zeros(states(ScanChunks(in.layout)), parameter)};
}

SelectiveScanGradients MakeGradients(const SelectiveScanInputs& in, DType parameter) {
  const auto like = [](const Tensor& tensor) {
    return tensor.defined() ? Tensor::Zeros(tensor.shape(), tensor.dtype()) : Tensor();
  };
  const int64_t channels = in.x.dim(1);
  return {.dx = like(in.x),
          .ddt = like(in.dt),
          .dA = like(in.A),
          .dB = like(in.B),
          .dC = like(in.C),
          .dD = Tensor::Zeros({channels}, parameter),
          .d_dt_bias = Tensor::Zeros({channels}, parameter),
          .dz = like(in.z),
          .d_interval = Tensor::Zeros({in.layout.rows()}, parameter),
          .dh0 = MakeOutputs(in, parameter).hT};
}

// The names and members, for loops over all gradients.
std::vector<std::pair<std::string, Tensor SelectiveScanGradients::*>> AllGradients() {
  using G = SelectiveScanGradients;
  return {{"x", &G::dx},
          {"dt", &G::ddt},
          {"A", &G::dA},
          {"B", &G::dB},
          {"C", &G::dC},
          {"D", &G::dD},
          {"dt_bias", &G::d_dt_bias},
          {"z", &G::dz},
          {"interval", &G::d_interval},
          {"h0", &G::dh0}};
}

// Activations rounded to one dtype and B, C to another, in f64 (for the reference) or as they are.
SelectiveScanInputs Rounded(const SelectiveScanInputs& in, DType activation, DType projection) {
  SelectiveScanInputs r = in;
  for (Tensor* tensor : {&r.x, &r.dt, &r.z}) *tensor = RoundedTo(activation, *tensor);
  for (Tensor* tensor : {&r.B, &r.C}) *tensor = RoundedTo(projection, *tensor);
  for (Tensor* tensor : {&r.A, &r.D, &r.dt_bias, &r.interval, &r.h0}) {
    *tensor = RoundedTo(DType::kF32, *tensor);
  }
  return r;
}
SelectiveScanInputs Converted(const SelectiveScanInputs& in, DType activation, DType projection) {
  SelectiveScanInputs r = in;
  for (Tensor* tensor : {&r.x, &r.dt, &r.z}) *tensor = AsType(activation, *tensor);
  for (Tensor* tensor : {&r.B, &r.C}) *tensor = AsType(projection, *tensor);
  for (Tensor* tensor : {&r.A, &r.D, &r.dt_bias, &r.interval, &r.h0}) {
    *tensor = AsType(DType::kF32, *tensor);
  }
  return r;
}
SelectiveScanInputs Converted(const SelectiveScanInputs& in) {
  return Converted(in, DType::kF32, DType::kF32);
}

// ---- The reference ------------------------------------------------------------------------------

TEST(SelectiveScanReferenceTest, ComputesTheEquationOfOneStateByHand) {
  const auto values = [](const Shape& shape, std::vector<double> v) {
    return Tensor::From<double>(shape, v);
  };
  SelectiveScanInputs in;
  in.x = values({2, 1}, {2.0, 3.0});
  in.dt = values({2, 1}, {0.5, -0.25});
  in.A = values({1, 1}, {-0.7});
  in.B = values({2, 1}, {1.5, -0.5});
  in.C = values({2, 1}, {0.3, 0.9});
  in.D = values({1}, {0.1});
  in.dt_bias = values({1}, {0.2});
  in.z = values({2, 1}, {1.0, -2.0});
  in.interval = values({2}, {1.0, 2.0});
  in.h0 = values({1, 1, 1}, {4.0});
  in.layout = SequenceLayout::Single(2);
  const SelectiveScanOutputs out = MakeOutputs(in, DType::kF64);
  reference::SelectiveScan(in, out);
  const double step0 = std::log1p(std::exp(0.7));
  const double step1 = 2 * std::log1p(std::exp(-0.05));
  const double h1 = std::exp(-0.7 * step0) * 4.0 + step0 * 1.5 * 2.0;
  const double h2 = std::exp(-0.7 * step1) * h1 - step1 * 0.5 * 3.0;
  EXPECT_NEAR(out.y.data<double>()[0], (0.3 * h1 + 0.2) / (1 + std::exp(-1.0)), 1e-14);
  EXPECT_NEAR(out.y.data<double>()[1], (0.9 * h2 + 0.3) * -2 / (1 + std::exp(2.0)), 1e-14);
  EXPECT_NEAR(out.hT.data<double>()[0], h2, 1e-14);
  EXPECT_EQ(out.chunk_states.data<double>()[0], 4.0);
}

TEST(SelectiveScanReferenceTest, GradientsMatchFiniteDifferences) {
  Random random(11);
  const std::vector<std::pair<Case, SequenceLayout>> cases = {
      {{}, SequenceLayout({0, 4, 4, 5, 9})},
      {{.options = false}, SequenceLayout::Single(6)},
      {{.channels = 4, .states = 1, .groups = 2}, SequenceLayout::Uniform(3, 1)},
      {{.channels = 4, .states = 2, .is_complex = true, .groups = 2}, SequenceLayout({0, 5, 7})},
      {{.channels = 2, .states = 3, .is_complex = true, .options = false},
       SequenceLayout::Single(4)}};
  for (const auto& [c, layout] : cases) {
    SCOPED_TRACE(ToString(c, layout));
    const SelectiveScanInputs in = RandomInputs(random, c, layout);
    const SelectiveScanOutputs out = MakeOutputs(in, DType::kF64);
    const Tensor dy = RandomNormal(random, in.x.shape());
    const Tensor dhT = RandomNormal(random, out.hT.shape());
    const auto loss = [&, &in = in] {
      reference::SelectiveScan(in, out);
      return WeightedSum(dy, out.y) + WeightedSum(dhT, out.hT);
    };
    const SelectiveScanGradients g = MakeGradients(in, DType::kF64);
    reference::SelectiveScanBackward(in, dy, dhT, g);
    std::vector<test::CheckedInput> checked = {{"x", in.x, g.dx},
                                               {"dt", in.dt, g.ddt},
                                               {"A", in.A, g.dA},
                                               {"B", in.B, g.dB},
                                               {"C", in.C, g.dC}};
    if (c.options) {
      checked.insert(checked.end(), {{"D", in.D, g.dD},
                                     {"dt_bias", in.dt_bias, g.d_dt_bias},
                                     {"z", in.z, g.dz},
                                     {"interval", in.interval, g.d_interval},
                                     {"h0", in.h0, g.dh0}});
    }
    test::ExpectGradients(loss, checked, random);
  }
}

// ---- The CPU ------------------------------------------------------------------------------------

// Runs forward and backward on the CPU, with every instruction set, and compares everything with
// the reference. Tolerances are relative to the largest element of the same channel, of B's and C's
// column, or of the tensor where that has one element a channel: `state` for what is f32
// throughout, `activation` and `projection` for what is rounded to those dtypes at the end.
struct Tolerances {
  double state = 2e-5;  // some 100 f32 roundings in a row, of sums whose terms cancel
  double activation = 2e-5;
  double projection = 2e-5;
};
void ExpectCpuMatchesReference(Random& random, const Case& c, const SequenceLayout& layout,
                               DType activation = DType::kF32, DType projection = DType::kF32,
                               const Tolerances& tolerances = {}) {
  SCOPED_TRACE(ToString(c, layout));
  const SelectiveScanInputs raw = RandomInputs(random, c, layout);
  const SelectiveScanInputs expected_in = Rounded(raw, activation, projection);
  const SelectiveScanOutputs expected = MakeOutputs(expected_in, DType::kF64);
  reference::SelectiveScan(expected_in, expected);
  const Tensor raw_dy = RandomNormal(random, raw.x.shape());
  const Tensor raw_dhT = RandomNormal(random, expected.hT.shape());
  const SelectiveScanGradients expected_g = MakeGradients(expected_in, DType::kF64);
  reference::SelectiveScanBackward(expected_in, RoundedTo(activation, raw_dy),
                                   RoundedTo(DType::kF32, raw_dhT), expected_g);

  test::ForEveryInstructionSet([&] {
    const SelectiveScanInputs in = Converted(raw, activation, projection);
    const SelectiveScanOutputs out = MakeOutputs(in, DType::kF32);
    SelectiveScan(in, out);
    // Of a few rows, each channel's largest element may be what cancellation left of large terms.
    const auto near = [&](int axis, const Tensor& actual, const Tensor& exact, double tolerance) {
      return layout.rows() >= 32 && actual.rank() > 1 ? NearAlong(axis, actual, exact, tolerance)
                                                      : Near(actual, exact, tolerance);
    };
    EXPECT_TRUE(near(1, out.y, expected.y, tolerances.activation)) << "y";
    EXPECT_TRUE(near(1, out.hT, expected.hT, tolerances.state)) << "hT";
    EXPECT_TRUE(near(1, out.chunk_states, expected.chunk_states, tolerances.state));
    const SelectiveScanGradients g = MakeGradients(in, DType::kF32);
    SelectiveScanBackward(in, out.chunk_states, raw_dy.To(activation), raw_dhT.To(DType::kF32), g);
    for (const auto& [name, member] : AllGradients()) {
      if (!(g.*member).defined()) continue;
      const double tolerance = name == "x" || name == "dt" || name == "z" ? tolerances.activation
                               : name == "B" || name == "C"               ? tolerances.projection
                                                                          : tolerances.state;
      EXPECT_TRUE(near(name == "A" ? 0 : 1, g.*member, expected_g.*member, tolerance))
          << "gradient of " << name;
    }
  });
}

TEST(SelectiveScanTest, MatchesTheReferenceOnAllLayouts) {
  Random random(1);
  for (const SequenceLayout& layout : test::SequenceLayouts()) {
    ExpectCpuMatchesReference(random, {}, layout);
    ExpectCpuMatchesReference(random, {.channels = 19, .states = 16, .options = false}, layout);
    ExpectCpuMatchesReference(random, {.channels = 18, .states = 2, .is_complex = true}, layout);
  }
}

TEST(SelectiveScanTest, MatchesTheReferenceForAnyNumberOfStates) {
  Random random(2);
  for (const int64_t states : {1, 2, 3, 4, 5, 7, 8, 16, 17, 33}) {
    const SequenceLayout layout = test::RandomLayout(random, 3, 70);
    ExpectCpuMatchesReference(random, {.channels = 21, .states = states}, layout);
    ExpectCpuMatchesReference(random, {.channels = 9, .states = states, .is_complex = true},
                              layout);
  }
}

TEST(SelectiveScanTest, MatchesTheReferenceForAnyNumberOfChannelsAndGroups) {
  Random random(3);
  const SequenceLayout layout({0, 3, 4, 71});
  for (const int64_t channels : {1, 2, 4, 15, 16, 17, 32, 33, 48}) {
    ExpectCpuMatchesReference(random, {.channels = channels, .states = 4}, layout);
  }
  for (const int64_t groups : {2, 3, 6}) {
    ExpectCpuMatchesReference(random, {.channels = 36, .states = 5, .groups = groups}, layout);
    ExpectCpuMatchesReference(
        random, {.channels = 36, .states = 3, .is_complex = true, .groups = groups}, layout);
  }
}

TEST(SelectiveScanTest, MatchesTheReferenceOnALongSequence) {
  Random random(4);
  ExpectCpuMatchesReference(random, {.channels = 3, .states = 4}, SequenceLayout::Single(5000));
}

// softplus(±30·4) against A of size e^±2: decays down to 0, and states that never fade.
TEST(SelectiveScanTest, MatchesTheReferenceWithExtremeSteps) {
  Random random(5);
  ExpectCpuMatchesReference(random, {.channels = 17, .states = 6, .dt_spread = 30},
                            SequenceLayout({0, 90, 100}));
  ExpectCpuMatchesReference(random,
                            {.channels = 17, .states = 3, .is_complex = true, .dt_spread = 30},
                            SequenceLayout({0, 90, 100}));
}

// The reference is given the rounded inputs, so only outputs are rounded: half a unit in the last
// place of the largest, 2⁻⁹ for bf16, 2⁻¹² for f16; what stays f32 is as exact as in f32.
TEST(SelectiveScanTest, MatchesTheReferenceInHalfPrecision) {
  Random random(6);
  const SequenceLayout layout({0, 40, 41, 41, 130});
  const Case c = {.channels = 35, .states = 16, .groups = 1};
  ExpectCpuMatchesReference(random, c, layout, DType::kBF16, DType::kBF16,
                            {.activation = 0x1p-8, .projection = 0x1p-8});
  ExpectCpuMatchesReference(random, c, layout, DType::kF16, DType::kF16,
                            {.activation = 0x1p-11, .projection = 0x1p-11});
  ExpectCpuMatchesReference(random, c, layout, DType::kBF16, DType::kF32, {.activation = 0x1p-8});
  ExpectCpuMatchesReference(random, {.channels = 6, .states = 3, .is_complex = true}, layout,
                            DType::kF32, DType::kBF16, {.projection = 0x1p-8});
}

TEST(SelectiveScanTest, ReadsAndWritesRowsWithGaps) {
  Random random(7);
  const Case c = {.channels = 20, .states = 5};
  const SequenceLayout layout({0, 70, 75});
  const SelectiveScanInputs in = Converted(RandomInputs(random, c, layout));
  const SelectiveScanOutputs out = MakeOutputs(in, DType::kF32);
  const Tensor dy = RandomNormal(random, in.x.shape()).To(DType::kF32);
  SelectiveScan(in, out);
  const SelectiveScanGradients g = MakeGradients(in, DType::kF32);
  SelectiveScanBackward(in, out.chunk_states, dy, Tensor(), g);

  SelectiveScanInputs wide = in;
  for (Tensor* tensor : {&wide.x, &wide.dt, &wide.z, &wide.B, &wide.C}) {
    *tensor = WithRowGap(*tensor, 3);
  }
  SelectiveScanOutputs wide_out = MakeOutputs(in, DType::kF32);
  wide_out.y = WithRowGap(wide_out.y, 7);
  SelectiveScan(wide, wide_out);
  EXPECT_TRUE(SameBits(wide_out.y, out.y));
  EXPECT_TRUE(SameBits(wide_out.hT, out.hT));
  EXPECT_TRUE(GapsUntouched(wide_out.y));
  SelectiveScanGradients wide_g = MakeGradients(in, DType::kF32);
  for (Tensor* tensor : {&wide_g.dx, &wide_g.ddt, &wide_g.dz, &wide_g.dB, &wide_g.dC}) {
    *tensor = WithRowGap(*tensor, 1);
  }
  SelectiveScanBackward(wide, wide_out.chunk_states, WithRowGap(dy, 2), Tensor(), wide_g);
  for (const auto& [name, member] : AllGradients()) {
    EXPECT_TRUE(SameBits(wide_g.*member, g.*member)) << name;
  }
  for (const Tensor* tensor : {&wide_g.dx, &wide_g.ddt, &wide_g.dz, &wide_g.dB, &wide_g.dC}) {
    EXPECT_TRUE(GapsUntouched(*tensor));
  }
}

// ---- Whole = chunks = rows ----------------------------------------------------------------------

SelectiveScanInputs RowsOf(const SelectiveScanInputs& in, int64_t begin, int64_t count) {
  SelectiveScanInputs part = in;
  for (Tensor* tensor : {&part.x, &part.dt, &part.z, &part.B, &part.C, &part.interval}) {
    *tensor = tensor->Rows(begin, count);
  }
  part.layout = SequenceLayout::Single(count);
  return part;
}

TEST(SelectiveScanTest, WholeEqualsChunksEqualsRows) {
  Random random(8);
  const int64_t rows = 200;
  for (const bool is_complex : {false, true}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Case c = {.channels = 37, .states = 7, .is_complex = is_complex};
      const SelectiveScanInputs raw = RandomInputs(random, c, SequenceLayout::Single(rows));
      const Tensor raw_dy = RandomNormal(random, raw.x.shape());
      test::ForEveryInstructionSet([&] {
        const SelectiveScanInputs in = Converted(raw, dtype, dtype);
        const SelectiveScanOutputs whole = MakeOutputs(in, DType::kF32);
        SelectiveScan(in, whole);
        const Tensor dy = raw_dy.To(dtype);
        const Tensor dhT = Tensor::Zeros(whole.hT.shape(), DType::kF32);
        dhT.CopyFrom(RandomNormal(random, dhT.shape()));
        const SelectiveScanGradients whole_g = MakeGradients(in, DType::kF32);
        SelectiveScanBackward(in, whole.chunk_states, dy, dhT, whole_g);

        const std::vector<std::vector<int64_t>> splits = {
            std::vector<int64_t>(static_cast<size_t>(rows), 1), {64, 64, 64, 8}, {1, 99, 37, 63}};
        for (const std::vector<int64_t>& lengths : splits) {
          SCOPED_TRACE(lengths.size());
          const SelectiveScanOutputs parts = MakeOutputs(in, DType::kF32);
          std::vector<SelectiveScanInputs> part_in;
          std::vector<Tensor> chunk_states;
          Tensor h = in.h0.Clone();
          int64_t begin = 0;
          for (const int64_t length : lengths) {
            SelectiveScanInputs part = RowsOf(in, begin, length);
            part.h0 = h.Clone();
            SelectiveScanOutputs out = MakeOutputs(part, DType::kF32);
            out.y = parts.y.Rows(begin, length);
            out.hT = h;  // may be h0: this one is read and written in place by the next call
            SelectiveScan(part, out);
            part_in.push_back(part);
            chunk_states.push_back(out.chunk_states);
            begin += length;
          }
          EXPECT_TRUE(SameBits(parts.y, whole.y));
          EXPECT_TRUE(SameBits(h, whole.hT));

          const SelectiveScanGradients g = MakeGradients(in, DType::kF32);
          Tensor dh = dhT;
          for (size_t i = lengths.size(); i-- > 0;) {
            begin -= lengths[i];
            SelectiveScanGradients part_g = g;
            for (Tensor SelectiveScanGradients::*member :
                 {&SelectiveScanGradients::dx, &SelectiveScanGradients::ddt,
                  &SelectiveScanGradients::dz, &SelectiveScanGradients::dB,
                  &SelectiveScanGradients::dC, &SelectiveScanGradients::d_interval}) {
              part_g.*member = (g.*member).Rows(begin, lengths[i]);
            }
            SelectiveScanBackward(part_in[i], chunk_states[i], dy.Rows(begin, lengths[i]), dh,
                                  part_g);
            dh = g.dh0.Clone();
          }
          // Row by row nothing is summed in another order but dA, dD and d_dt_bias over rows.
          for (const auto& [name, member] : AllGradients()) {
            EXPECT_TRUE(Near(g.*member, whole_g.*member, 1e-5)) << "gradient of " << name;
          }
        }
      });
    }
  }
}

TEST(SelectiveScanTest, FinalStateMayReplaceTheInitialOne) {
  Random random(9);
  const SelectiveScanInputs raw = Converted(
      RandomInputs(random, {.channels = 20, .states = 5}, SequenceLayout({0, 3, 3, 100})));
  const SelectiveScanOutputs apart = MakeOutputs(raw, DType::kF32);
  SelectiveScan(raw, apart);
  SelectiveScanOutputs in_place = MakeOutputs(raw, DType::kF32);
  in_place.hT = raw.h0;
  SelectiveScan(raw, in_place);
  EXPECT_TRUE(SameBits(in_place.y, apart.y));
  EXPECT_TRUE(SameBits(in_place.hT, apart.hT));
}

// Each of dx, ddt and dz over each of x, dt, z and dy; dh0 over dhT.
TEST(SelectiveScanTest, GradientsMayReplaceWhatTheyAreOf) {
  Random random(16);
  const SelectiveScanInputs raw =
      RandomInputs(random, {.channels = 20, .states = 5}, SequenceLayout({0, 3, 3, 100}));
  const Tensor raw_dy = RandomNormal(random, raw.x.shape());
  const Tensor raw_dhT = RandomNormal(random, raw.h0.shape());
  const auto run = [&](bool reference, Tensor SelectiveScanGradients::*gradient, int over) {
    const DType dtype = reference ? DType::kF64 : DType::kF32;
    SelectiveScanInputs in = reference ? raw : Converted(raw);
    for (Tensor* tensor : {&in.x, &in.dt, &in.z}) *tensor = tensor->Clone();
    const Tensor dy = raw_dy.To(dtype).Clone();
    const Tensor dhT = raw_dhT.To(dtype).Clone();
    const SelectiveScanOutputs out = MakeOutputs(in, dtype);
    SelectiveScanGradients g = MakeGradients(in, dtype);
    if (gradient != nullptr) {
      g.*gradient = std::vector<Tensor>{in.x, in.dt, in.z, dy}.at(static_cast<size_t>(over));
      g.dh0 = dhT;
    }
    if (reference) {
      reference::SelectiveScanBackward(in, dy, dhT, g);
    } else {
      SelectiveScan(in, out);
      SelectiveScanBackward(in, out.chunk_states, dy, dhT, g);
    }
    return g;
  };
  test::ForEveryInstructionSet([&] {
    for (const bool reference : {false, true}) {
      const SelectiveScanGradients apart = run(reference, nullptr, 0);
      for (Tensor SelectiveScanGradients::*gradient :
           {&SelectiveScanGradients::dx, &SelectiveScanGradients::ddt,
            &SelectiveScanGradients::dz}) {
        for (int over = 0; over < 4; ++over) {
          const SelectiveScanGradients in_place = run(reference, gradient, over);
          for (const auto& [name, member] : AllGradients()) {
            EXPECT_TRUE(SameBits(in_place.*member, apart.*member))
                << name << (reference ? " of the reference, over " : " over ") << over;
          }
        }
      }
    }
  });
}

TEST(SelectiveScanTest, RefusesOtherSharedMemory) {
  Random random(17);
  const SelectiveScanInputs in =
      Converted(RandomInputs(random, {.channels = 6, .states = 6}, SequenceLayout({0, 5, 9})));
  const SelectiveScanOutputs out = MakeOutputs(in, DType::kF32);
  for (const Tensor& input : {in.x, in.dt, in.z, in.B, in.C}) {
    EXPECT_THAT(
        test::ErrorOf([&] { SelectiveScan(in, {.y = input, .hT = out.hT, .chunk_states = {}}); }),
        testing::HasSubstr("y lies on "));
  }
  const Tensor states = Tensor::Zeros({3, 6, 6}, DType::kF32);
  SelectiveScanInputs shifted = in;
  shifted.h0 = states.Rows(0, 2);
  EXPECT_THAT(test::ErrorOf([&] {
                SelectiveScan(shifted, {.y = out.y, .hT = states.Rows(1, 2), .chunk_states = {}});
              }),
              testing::HasSubstr("hT lies on h0, but not element on element"));
  // x and z as views of one projection, and y beside them, are what models pass.
  const Tensor wide = Tensor::Zeros({9, 18}, DType::kF32);
  SelectiveScanInputs views = in;
  views.x = wide.Columns(0, 6);
  views.z = wide.Columns(6, 6);
  EXPECT_NO_THROW(SelectiveScan(views, {.y = wide.Columns(12, 6), .hT = {}, .chunk_states = {}}));
  const auto refuses = [&](const std::string& message, const SelectiveScanGradients& g) {
    EXPECT_THAT(
        test::ErrorOf([&] { SelectiveScanBackward(views, out.chunk_states, out.y, Tensor(), g); }),
        testing::HasSubstr(message));
  };
  const Tensor other = Tensor::Zeros({9, 6}, DType::kF32);
  refuses("dx lies on x, but not element on element", {.dx = wide.Columns(1, 6)});
  refuses("dx lies on B", {.dx = in.B});
  refuses("dB lies on B", {.dB = in.B});
  refuses("dC lies on dy", {.dC = out.y});
  refuses("ddt lies on dx", {.dx = other, .ddt = other});
  refuses("dC lies on dB", {.dB = other, .dC = other});
  refuses("dA lies on A", {.dA = in.A});
  refuses("dh0 lies on dA", {.dA = states.Rows(0, 1).Reshape({6, 6}), .dh0 = states.Rows(0, 2)});
  refuses("d_interval lies on dx",
          {.dx = other, .d_interval = Tensor::Wrap(other.raw(), {9}, DType::kF32)});
}

TEST(SelectiveScanTest, DecodesABatchOfRowsLikeEachAlone) {
  Random random(10);
  const int64_t batch = 7;
  const SelectiveScanInputs in = Converted(
      RandomInputs(random, {.channels = 40, .states = 16}, SequenceLayout::Uniform(batch, 1)));
  const SelectiveScanOutputs together = MakeOutputs(in, DType::kF32);
  SelectiveScan(in, together);
  for (int64_t s = 0; s < batch; ++s) {
    SelectiveScanInputs one = RowsOf(in, s, 1);
    one.h0 = in.h0.Rows(s, 1);
    const SelectiveScanOutputs alone = MakeOutputs(one, DType::kF32);
    SelectiveScan(one, alone);
    EXPECT_TRUE(SameBits(together.y.Rows(s, 1), alone.y));
    EXPECT_TRUE(SameBits(together.hT.Rows(s, 1), alone.hT));
  }
}

// Tiles of one row go another way where the states before them are not kept; the results must not
// show it. Alone, and between prompts in one batch.
TEST(SelectiveScanTest, ARowAloneGivesTheSameBitsEitherWay) {
  Random random(18);
  const std::vector<Case> cases = {{.channels = 1, .states = 1},
                                   {.channels = 33, .states = 16},
                                   {.channels = 16, .states = 16, .options = false},
                                   {.channels = 48, .states = 16, .groups = 3},
                                   {.channels = 21, .states = 7},
                                   {.channels = 20, .states = 33, .groups = 2},
                                   {.channels = 40, .states = 8, .dt_spread = 30},
                                   {.channels = 18, .states = 3, .is_complex = true}};
  for (const Case& c : cases) {
    for (const SequenceLayout& layout : {SequenceLayout::Single(1), SequenceLayout::Uniform(5, 1),
                                         SequenceLayout({0, 1, 2, 7, 7, 8, 73, 74})}) {
      SCOPED_TRACE(ToString(c, layout));
      const SelectiveScanInputs raw = RandomInputs(random, c, layout);
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        test::ForEveryInstructionSet([&] {
          const SelectiveScanInputs in = Converted(raw, dtype, dtype);
          const SelectiveScanOutputs kept = MakeOutputs(in, DType::kF32);
          SelectiveScan(in, kept);
          SelectiveScanInputs in_place = in;
          if (in.h0) in_place.h0 = in.h0.Clone();
          const SelectiveScanOutputs out = {
              .y = WithRowGap(Tensor::Zeros(in.x.shape(), dtype), 3),
              .hT = in.h0 ? in_place.h0 : Tensor::Zeros(kept.hT.shape(), DType::kF32),
              .chunk_states = {}};
          SelectiveScan(in_place, out);
          EXPECT_TRUE(SameBits(out.y, kept.y));
          EXPECT_TRUE(GapsUntouched(out.y));
          EXPECT_TRUE(SameBits(out.hT, kept.hT));
          const Tensor y = Tensor::Zeros(in.x.shape(), dtype);
          SelectiveScan(in, {.y = y, .hT = {}, .chunk_states = {}});
          EXPECT_TRUE(SameBits(y, kept.y));
        });
      }
    }
  }
}

// ---- Threads ------------------------------------------------------------------------------------

class ThreadCountGuard {
 public:
  explicit ThreadCountGuard(int threads) { cpu::SetThreadCount(threads); }
  ~ThreadCountGuard() { cpu::SetThreadCount(before_); }

 private:
  int before_ = cpu::ThreadCount();
};

// Large enough for several threads, over channels and over sequences, and for several windows of
// the backward.
TEST(SelectiveScanTest, IsReproducibleAndIndependentOfThreads) {
  Random random(12);
  const std::vector<std::pair<Case, SequenceLayout>> cases = {
      {{.channels = 70, .states = 16}, SequenceLayout::Single(2500)},
      {{.channels = 20, .states = 16}, SequenceLayout({0, 1300, 1301, 1400, 2000, 2600})},
      {{.channels = 48, .states = 5, .groups = 2}, SequenceLayout({0, 1000, 3000})}};
  for (const auto& [c, layout] : cases) {
    SCOPED_TRACE(ToString(c, layout));
    const SelectiveScanInputs in = Converted(RandomInputs(random, c, layout));
    const Tensor dy = RandomNormal(random, in.x.shape()).To(DType::kF32);
    const SelectiveScanOutputs first = MakeOutputs(in, DType::kF32);
    const SelectiveScanGradients first_g = MakeGradients(in, DType::kF32);
    {
      const ThreadCountGuard guard(1);
      SelectiveScan(in, first);
      SelectiveScanBackward(in, first.chunk_states, dy, Tensor(), first_g);
    }
    for (const int threads : {2, 3, 5}) {
      SCOPED_TRACE(threads);
      const ThreadCountGuard guard(threads);
      const SelectiveScanOutputs out = MakeOutputs(in, DType::kF32);
      SelectiveScan(in, out);
      EXPECT_TRUE(SameBits(out.y, first.y));
      EXPECT_TRUE(SameBits(out.hT, first.hT));
      const SelectiveScanGradients g = MakeGradients(in, DType::kF32);
      SelectiveScanBackward(in, out.chunk_states, dy, Tensor(), g);
      const SelectiveScanGradients again = MakeGradients(in, DType::kF32);
      SelectiveScanBackward(in, out.chunk_states, dy, Tensor(), again);
      for (const auto& [name, member] : AllGradients()) {
        EXPECT_TRUE(SameBits(again.*member, g.*member)) << name;
        // Sums over channels and sequences are split otherwise.
        EXPECT_TRUE(Near(g.*member, first_g.*member, 1e-5)) << name;
      }
    }
  }
}

// ---- The contract's edges -----------------------------------------------------------------------

TEST(SelectiveScanTest, AddsToParametersAndOverwritesTheRest) {
  Random random(13);
  const SelectiveScanInputs in =
      Converted(RandomInputs(random, {.channels = 17, .states = 3}, SequenceLayout({0, 0, 20})));
  const SelectiveScanOutputs out = MakeOutputs(in, DType::kF32);
  SelectiveScan(in, out);
  const Tensor dy = RandomNormal(random, in.x.shape()).To(DType::kF32);
  const SelectiveScanGradients once = MakeGradients(in, DType::kF32);
  SelectiveScanBackward(in, out.chunk_states, dy, Tensor(), once);
  const SelectiveScanGradients twice = MakeGradients(in, DType::kF32);
  SelectiveScanBackward(in, out.chunk_states, dy, Tensor(), twice);
  SelectiveScanBackward(in, out.chunk_states, dy, Tensor(), twice);
  for (const auto& [name, member] : AllGradients()) {
    const Tensor expected = (once.*member).To(DType::kF64).Clone();
    if (name == "A" || name == "D" || name == "dt_bias") {
      for (int64_t i = 0; i < expected.elements(); ++i) expected.data<double>()[i] *= 2;
    }
    EXPECT_TRUE(Near(twice.*member, expected, 1e-7)) << name;
  }
}

TEST(SelectiveScanTest, ComputesOnlyWhatIsAskedFor) {
  Random random(14);
  const SelectiveScanInputs in =
      Converted(RandomInputs(random, {.channels = 9, .states = 3}, SequenceLayout({0, 5, 20})));
  const SelectiveScanOutputs all = MakeOutputs(in, DType::kF32);
  SelectiveScan(in, all);
  const Tensor y = Tensor::Zeros(in.x.shape(), DType::kF32);
  SelectiveScan(in, {.y = y, .hT = {}, .chunk_states = {}});
  EXPECT_TRUE(SameBits(y, all.y));
  const Tensor dy = RandomNormal(random, in.x.shape()).To(DType::kF32);
  const SelectiveScanGradients all_g = MakeGradients(in, DType::kF32);
  SelectiveScanBackward(in, all.chunk_states, dy, Tensor(), all_g);
  for (const auto& [name, member] : AllGradients()) {
    SelectiveScanGradients one;
    one.*member = (MakeGradients(in, DType::kF32)).*member;
    SelectiveScanBackward(in, all.chunk_states, dy, Tensor(), one);
    EXPECT_TRUE(SameBits(one.*member, all_g.*member)) << name;
  }
}

TEST(SelectiveScanTest, ErrorsSayWhatWasExpected) {
  Random random(15);
  const SelectiveScanInputs good = Converted(
      RandomInputs(random, {.channels = 6, .states = 3, .groups = 2}, SequenceLayout({0, 5, 8})));
  const SelectiveScanOutputs out = MakeOutputs(good, DType::kF32);
  const auto expect = [&](const std::string& message, auto&& change) {
    SelectiveScanInputs in = good;
    SelectiveScanOutputs o = out;
    change(in, o);
    try {
      SelectiveScan(in, o);
      ADD_FAILURE() << "no error, expected: " << message;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_THAT(error.what(), testing::HasSubstr(message));
    }
  };
  const auto f32 = [](const Shape& shape) { return Tensor::Zeros(shape, DType::kF32); };
  expect("x is not given", [&](auto& in, auto&) { in.x = Tensor(); });
  expect("dt is f32 [8, 5], expected f32 [8, 6]", [&](auto& in, auto&) { in.dt = f32({8, 5}); });
  expect("dt is bf16 [8, 6], expected f32 [8, 6]",
         [&](auto& in, auto&) { in.dt = in.dt.To(DType::kBF16); });
  expect("A is f32 [6], expected [D, N] or [D, N, 2]", [&](auto& in, auto&) { in.A = f32({6}); });
  expect("A has no states", [&](auto& in, auto&) { in.A = f32({6, 0}); });
  expect("B is f32 [8, 5], expected", [&](auto& in, auto&) { in.B = f32({8, 5}); });
  expect("C is not given, expected", [&](auto& in, auto&) { in.C = Tensor(); });
  expect("there are 4 groups, expected a divisor of the 6 channels",
         [&](auto& in, auto&) { in.groups = 4; });
  expect("there are 0 groups", [&](auto& in, auto&) { in.groups = 0; });
  expect("the layout has 7 rows, x has 8",
         [&](auto& in, auto&) { in.layout = SequenceLayout::Single(7); });
  expect("h0 is f32 [1, 6, 3], expected f32 [2, 6, 3]", [&](auto& in, auto&) {
    in.h0 = f32({1, 6, 3});
  });
  expect("interval is f32 [7]", [&](auto& in, auto&) { in.interval = f32({7}); });
  expect("y is not given", [&](auto&, auto& o) { o.y = Tensor(); });
  expect("hT is f64", [&](auto&, auto& o) { o.hT = o.hT.To(DType::kF64); });
  expect("x is f64 [8, 6], expected f32 or bf16 or f16 [8, 6]",
         [&](auto& in, auto&) { in.x = in.x.To(DType::kF64); });

  const SelectiveScanGradients g = MakeGradients(good, DType::kF32);
  const Tensor dy = f32({8, 6});
  EXPECT_THROW(SelectiveScanBackward(good, Tensor(), dy, Tensor(), g), Error);
  EXPECT_THROW(SelectiveScanBackward(good, out.chunk_states, f32({8, 5}), Tensor(), g), Error);
  SelectiveScanInputs no_gate = good;
  no_gate.z = Tensor();
  EXPECT_THROW(SelectiveScanBackward(no_gate, out.chunk_states, dy, Tensor(), g), Error);
}

}  // namespace
}  // namespace adder
