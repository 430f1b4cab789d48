// ssd on a CUDA device computes what it computes on the CPU: whatever the shape, whole and in
// chunks, in one pass and in segments.
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/ops/operator_test.h"
#include "adder/ops/ssd/ssd.h"

namespace adder {
namespace {

using test::kCuda;
using test::Near;
using test::OnCpu;
using test::RandomNormal;
using test::SameBits;
using SsdCudaTest = test::CudaTest;

struct Case {
  int64_t heads = 3;
  int64_t head_dim = 4;
  int64_t groups = 1;
  int64_t states = 5;
  bool options = true;  // D, dt_bias, interval and h0 are given
  DType activation = DType::kF32;
  int64_t gap = 0;  // between rows
  double dt_spread = 1.5;
  double dt_min = 0;
  double dt_max = std::numeric_limits<double>::infinity();
};

std::string ToString(const Case& c, const SequenceLayout& layout) {
  return fmt::format("{} heads of {}, N {}, groups {}, {} options, {}, gap {}, {} rows in {}",
                     c.heads, c.head_dim, c.states, c.groups, c.options ? "all" : "no",
                     DTypeName(c.activation), c.gap, layout.rows(), layout.sequences());
}

Shape StateShape(const Case& c, int64_t count) { return {count, c.heads, c.head_dim, c.states}; }

Tensor Rows(Random& random, const Case& c, const Shape& shape, double mean = 0, double stddev = 1) {
  const Tensor t = RandomNormal(random, shape, mean, stddev).To(c.activation);
  return c.gap > 0 ? test::WithRowGap(t, c.gap) : t;
}

SsdInputs RandomInputs(Random& random, const Case& c, const SequenceLayout& layout) {
  const auto floats = [&](const Shape& shape) {
    return RandomNormal(random, shape).To(DType::kF32);
  };
  const int64_t rows = layout.rows();
  SsdInputs in;
  in.x = Rows(random, c, {rows, c.heads * c.head_dim});
  in.dt = Rows(random, c, {rows, c.heads}, -1, c.dt_spread);
  in.A = floats({c.heads});
  for (int64_t h = 0; h < c.heads; ++h) in.A.data<float>()[h] = -std::exp(in.A.data<float>()[h]);
  in.B = Rows(random, c, {rows, c.groups * c.states});
  in.C = Rows(random, c, {rows, c.groups * c.states});
  if (c.options) {
    in.D = floats({c.heads});
    in.dt_bias = floats({c.heads});
    in.interval = test::RandomUniform(random, {rows}, 0.2, 2).To(DType::kF32);
    in.h0 = floats(StateShape(c, layout.sequences()));
  }
  in.layout = layout;
  in.head_dim = c.head_dim;
  in.groups = c.groups;
  in.dt_min = c.dt_min;
  in.dt_max = c.dt_max;
  return in;
}

SsdInputs OnCuda(const SsdInputs& in) {
  SsdInputs copy = in;
  for (Tensor* tensor : {&copy.x, &copy.dt, &copy.A, &copy.B, &copy.C, &copy.D, &copy.dt_bias,
                         &copy.interval, &copy.h0}) {
    *tensor = test::OnCuda(*tensor);
  }
  return copy;
}

// NaN before it is written.
Tensor Poisoned(const Shape& shape, DType dtype, Device device) {
  const Tensor host = Tensor::Empty(shape, dtype);
  std::memset(host.raw(), 0xff, static_cast<size_t>(host.bytes()));
  return host.To(device);
}
SsdOutputs MakeOutputs(const Case& c, const SequenceLayout& layout, Device device) {
  return {.y = Poisoned({layout.rows(), c.heads * c.head_dim}, c.activation, device),
          .hT = Poisoned(StateShape(c, layout.sequences()), DType::kF32, device),
          .chunk_states = Poisoned(StateShape(c, SsdChunks(layout)), DType::kF32, device)};
}

// f32: some 100 roundings in a row, of sums whose terms cancel, and exponentials good to 2 units in
// the last place. 16 bits: states and weights are rounded before they are multiplied, and what is
// asked for in 16 bits once more, on the CPU too.
double Tolerance(DType activation) {
  return activation == DType::kF32 ? 2e-5 : activation == DType::kBF16 ? 0x1p-6 : 0x1p-9;
}

void ExpectForwardAsOnCpu(Random& random, const Case& c, const SequenceLayout& layout) {
  SCOPED_TRACE(ToString(c, layout));
  const SsdInputs in = RandomInputs(random, c, layout);
  const SsdOutputs out = MakeOutputs(c, layout, {});
  Ssd(in, out);
  const SsdInputs cuda_in = OnCuda(in);
  const SsdOutputs cuda_out = MakeOutputs(c, layout, kCuda);
  Ssd(cuda_in, cuda_out);
  EXPECT_TRUE(Near(OnCpu(cuda_out.y), out.y, Tolerance(c.activation))) << "y";
  EXPECT_TRUE(Near(OnCpu(cuda_out.hT), out.hT, Tolerance(c.activation))) << "hT";
  EXPECT_TRUE(Near(OnCpu(cuda_out.chunk_states), out.chunk_states, Tolerance(c.activation)));

  // Without states to keep, the state in place: single rows by the recurrence itself.
  SsdInputs in_place = cuda_in;
  const SsdOutputs alone = {
      .y = Poisoned(in.x.shape(), c.activation, kCuda),
      .hT = cuda_in.h0 ? cuda_in.h0.Clone() : MakeOutputs(c, layout, kCuda).hT,
      .chunk_states = {}};
  if (cuda_in.h0) in_place.h0 = alone.hT;
  Ssd(in_place, alone);
  EXPECT_TRUE(Near(OnCpu(alone.y), out.y, Tolerance(c.activation))) << "y alone";
  EXPECT_TRUE(Near(OnCpu(alone.hT), out.hT, Tolerance(c.activation))) << "hT in place";
}

SsdGradients MakeGradients(const SsdInputs& in, Device device) {
  const auto like = [&](const Tensor& tensor) {
    return Poisoned(tensor.shape(), tensor.dtype(), device);
  };
  const auto sums = [&] { return Tensor::Zeros(in.A.shape(), DType::kF32, device); };
  return {
      .dx = like(in.x),
      .ddt = like(in.dt),
      .dA = sums(),
      .dB = like(in.B),
      .dC = like(in.C),
      .dD = sums(),
      .d_dt_bias = sums(),
      .d_interval = Poisoned({in.x.dim(0)}, DType::kF32, device),
      .dh0 = Poisoned({in.layout.sequences(), in.A.dim(0), in.head_dim, in.B.dim(1) / in.groups},
                      DType::kF32, device)};
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

void ExpectAsOnCpu(Random& random, const Case& c, const SequenceLayout& layout) {
  ExpectForwardAsOnCpu(random, c, layout);
  SCOPED_TRACE(ToString(c, layout));
  const SsdInputs in = RandomInputs(random, c, layout);
  const SsdOutputs out = MakeOutputs(c, layout, {});
  Ssd(in, out);
  const Tensor dy = Rows(random, c, in.x.shape());
  const Tensor dhT = c.options ? RandomNormal(random, out.hT.shape()).To(DType::kF32) : Tensor();
  const SsdGradients g = MakeGradients(in, {});
  SsdBackward(in, out.chunk_states, dy, dhT, g);
  const SsdInputs cuda_in = OnCuda(in);
  const Tensor states = out.chunk_states.To(kCuda);
  const Tensor cuda_dy = test::OnCuda(dy);
  const Tensor cuda_dhT = test::OnCuda(dhT);
  const auto backward = [&] {
    const SsdGradients results = MakeGradients(in, kCuda);
    SsdBackward(cuda_in, states, cuda_dy, cuda_dhT, results);
    return results;
  };
  const SsdGradients cuda_g = backward();
  const SsdGradients again = backward();
  for (const auto& [name, member] : AllGradients()) {
    // Sums of many terms: their order differs. What 16 bits round of a head's or a row's terms is
    // compared with the largest sum, of which little may be left where there are few.
    const Tensor& expected = g.*member;
    const bool few = c.activation != DType::kF32 && expected.rank() == 1;
    const double terms = !few ? 1 : expected.elements() < 8 ? 32 : 8;
    EXPECT_TRUE(Near(OnCpu(cuda_g.*member), expected, 2e-5 + terms * Tolerance(c.activation)))
        << "gradient of " << name;
    EXPECT_TRUE(SameBits(OnCpu(again.*member), OnCpu(cuda_g.*member))) << name << " again";
  }
}

TEST_F(SsdCudaTest, MatchesTheCpuOnAllLayouts) {
  Random random(1);
  for (const SequenceLayout& layout : test::SequenceLayouts()) {
    ExpectAsOnCpu(random, {}, layout);
    ExpectAsOnCpu(random, {.heads = 6, .head_dim = 19, .groups = 2, .states = 16, .options = false},
                  layout);
    ExpectAsOnCpu(random, {.heads = 8, .head_dim = 64, .states = 64, .activation = DType::kBF16},
                  layout);
  }
}

TEST_F(SsdCudaTest, MatchesTheCpuOnRandomShapes) {
  Random random(2);
  for (int i = 0; i < 24; ++i) {
    const auto groups = static_cast<int64_t>(1 + random.NextBelow(3));
    const Case c = {.heads = groups * static_cast<int64_t>(1 + random.NextBelow(4)),
                    .head_dim = static_cast<int64_t>(1 + random.NextBelow(100)),
                    .groups = groups,
                    .states = static_cast<int64_t>(1 + random.NextBelow(256)),
                    .options = i % 3 != 0,
                    .activation = i % 2 == 0 ? DType::kF32 : DType::kBF16,
                    .gap = i % 5};
    ExpectAsOnCpu(random, c, test::RandomLayout(random, 4, 150));
  }
}

TEST_F(SsdCudaTest, MatchesTheCpuInHalfPrecision) {
  Random random(3);
  const SequenceLayout layout({0, 64, 65, 65, 200});
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const int64_t gap : {0, 1, 8}) {
      for (const int64_t states : {8, 64, 80, 128, 256}) {
        ExpectAsOnCpu(random,
                      {.heads = 6,
                       .head_dim = 64,
                       .groups = 2,
                       .states = states,
                       .activation = dtype,
                       .gap = gap},
                      layout);
      }
    }
    for (const int64_t head_dim : {8, 32, 48, 96, 128}) {
      ExpectAsOnCpu(random, {.heads = 3, .head_dim = head_dim, .states = 128, .activation = dtype},
                    layout);
    }
  }
}

TEST_F(SsdCudaTest, LimitsOfTheStepAndExtremeSteps) {
  Random random(4);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const double spread : {1.5, 30.0}) {
      ExpectAsOnCpu(random,
                    {.activation = dtype, .dt_spread = spread, .dt_min = 0.1, .dt_max = 1.2},
                    SequenceLayout({0, 1, 70}));
    }
    ExpectAsOnCpu(random, {.activation = dtype, .dt_spread = 40}, SequenceLayout({0, 70, 71}));
    // In 16 bits the gradient of A, where the past is gone, is that of the roundings.
    const Case c = {.options = false, .activation = dtype, .dt_spread = 200};
    if (dtype == DType::kF32) {
      ExpectAsOnCpu(random, c, SequenceLayout::Single(60));
    } else {
      ExpectForwardAsOnCpu(random, c, SequenceLayout::Single(60));
    }
  }
}

// Long enough that it is cut into segments.
TEST_F(SsdCudaTest, MatchesTheCpuOnLongSequences) {
  Random random(5);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Case c = {.heads = 2, .head_dim = 24, .states = 40, .activation = dtype};
    ExpectAsOnCpu(random, c, SequenceLayout::Single(20000));
    ExpectAsOnCpu(random, c, SequenceLayout({0, 7, 9001, 9001, 9002, 20011}));
  }
}

// Neither so few heads and sequences that these are cut into segments, nor so many that blocks
// which end early find others to do: on 132 multiprocessors, walks are cut into equal shares.
TEST_F(SsdCudaTest, MatchesTheCpuInEqualShares) {
  Random random(9);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    ExpectAsOnCpu(random, {.heads = 80, .head_dim = 12, .states = 8, .activation = dtype},
                  SequenceLayout({0, 200, 450, 450, 700, 880, 1070, 1260, 1261, 1510, 1760}));
    ExpectAsOnCpu(random,
                  {.heads = 90, .head_dim = 5, .groups = 2, .states = 9, .activation = dtype},
                  SequenceLayout::Uniform(6, 129));
  }
}

TEST_F(SsdCudaTest, WholeEqualsChunksEqualsRows) {
  Random random(6);
  constexpr int64_t kRows = 200;
  const Case c = {.heads = 4, .head_dim = 40, .groups = 2, .states = 18};
  const SsdInputs in = OnCuda(RandomInputs(random, c, SequenceLayout::Single(kRows)));
  const SsdOutputs whole = MakeOutputs(c, in.layout, kCuda);
  Ssd(in, whole);
  const std::vector<std::vector<int64_t>> splits = {
      std::vector<int64_t>(kRows, 1), {64, 64, 64, 8}, {1, 99, 37, 63}};
  for (const std::vector<int64_t>& lengths : splits) {
    const Tensor y = MakeOutputs(c, in.layout, kCuda).y;
    const Tensor h = in.h0.Clone();
    int64_t begin = 0;
    for (const int64_t length : lengths) {
      SsdInputs part = in;
      for (Tensor* tensor : {&part.x, &part.dt, &part.B, &part.C, &part.interval}) {
        *tensor = tensor->Rows(begin, length);
      }
      part.layout = SequenceLayout::Single(length);
      part.h0 = h;
      Ssd(part, {.y = y.Rows(begin, length), .hT = h, .chunk_states = {}});
      begin += length;
    }
    EXPECT_TRUE(Near(OnCpu(y), OnCpu(whole.y), Tolerance(DType::kF32)));
    EXPECT_TRUE(Near(OnCpu(h), OnCpu(whole.hT), Tolerance(DType::kF32)));
  }
  const SsdOutputs again = MakeOutputs(c, in.layout, kCuda);
  Ssd(in, again);
  EXPECT_TRUE(SameBits(OnCpu(again.y), OnCpu(whole.y)));
  EXPECT_TRUE(SameBits(OnCpu(again.chunk_states), OnCpu(whole.chunk_states)));
}

// One gradient at a time, added to what is there where that is the contract, into views whose rows
// are further apart.
TEST_F(SsdCudaTest, EachGradientAlone) {
  Random random(8);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Case c = {.heads = 4, .head_dim = 24, .groups = 2, .states = 18, .activation = dtype};
    const SequenceLayout layout({0, 9, 10, 90});
    const SsdInputs in = OnCuda(RandomInputs(random, c, layout));
    const SsdOutputs out = MakeOutputs(c, layout, kCuda);
    Ssd(in, out);
    const Tensor dy = test::OnCuda(Rows(random, c, in.x.shape()));
    const SsdGradients all = MakeGradients(in, kCuda);
    SsdBackward(in, out.chunk_states, dy, {}, all);
    SsdGradients apart = MakeGradients(in, kCuda);
    for (Tensor* tensor : {&apart.dx, &apart.ddt, &apart.dB, &apart.dC}) {
      const Tensor wide =
          Tensor::Zeros({tensor->dim(0), tensor->dim(1) + 6}, tensor->dtype(), kCuda);
      *tensor = wide.Columns(3, tensor->dim(1));
    }
    for (const auto& [name, member] : AllGradients()) {
      SsdGradients one;
      one.*member = apart.*member;
      SsdBackward(in, out.chunk_states, dy, {}, one);
      EXPECT_TRUE(SameBits(OnCpu(apart.*member), OnCpu(all.*member))) << name;
    }
    const Tensor twice = all.dD.Clone();
    SsdGradients sum;
    sum.dD = twice;
    SsdBackward(in, out.chunk_states, dy, {}, sum);
    const Tensor expected = OnCpu(all.dD).Clone();
    for (int64_t h = 0; h < expected.elements(); ++h) expected.data<float>()[h] *= 2;
    EXPECT_TRUE(SameBits(OnCpu(twice), expected));
  }
}

TEST_F(SsdCudaTest, RefusesMoreThan256States) {
  Random random(7);
  const Case c = {.heads = 1, .head_dim = 2, .states = 257};
  const SsdInputs in = OnCuda(RandomInputs(random, c, SequenceLayout::Single(3)));
  EXPECT_THROW(Ssd(in, MakeOutputs(c, in.layout, kCuda)), Error);
}

}  // namespace
}  // namespace adder
