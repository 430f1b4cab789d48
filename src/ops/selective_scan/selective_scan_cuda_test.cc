// selective_scan on a CUDA device computes what it computes on the CPU: whatever the shape, whole
// and in chunks, in one pass and in segments.
#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/ops/operator_test.h"
#include "adder/ops/selective_scan/selective_scan.h"

namespace adder {
namespace {

using test::kCuda;
using test::Near;
using test::OnCpu;
using test::RandomNormal;
using test::SameBits;
using SelectiveScanCudaTest = test::CudaTest;

struct Case {
  int64_t channels = 5;
  int64_t states = 3;
  bool is_complex = false;
  int64_t groups = 1;
  bool options = true;  // D, dt_bias, z, interval and h0 are given
  DType activation = DType::kF32;
  DType projection = DType::kF32;
  int64_t gap = 0;  // between rows
};

std::string ToString(const Case& c, const SequenceLayout& layout) {
  return fmt::format("D {}, N {}{}, groups {}, {} options, {} and {}, gap {}, {} rows in {}",
                     c.channels, c.states, c.is_complex ? " complex" : "", c.groups,
                     c.options ? "all" : "no", DTypeName(c.activation), DTypeName(c.projection),
                     c.gap, layout.rows(), layout.sequences());
}

Shape StateShape(const Case& c, int64_t count) {
  return c.is_complex ? Shape({count, c.channels, c.states, 2})
                      : Shape({count, c.channels, c.states});
}

Tensor Rows(Random& random, const Case& c, const Shape& shape, DType dtype, double mean = 0,
            double stddev = 1) {
  const Tensor t = RandomNormal(random, shape, mean, stddev).To(dtype);
  return c.gap > 0 ? test::WithRowGap(t, c.gap) : t;
}

SelectiveScanInputs RandomInputs(Random& random, const Case& c, const SequenceLayout& layout) {
  const Shape activation = {layout.rows(), c.channels};
  const Shape projection = {layout.rows(), c.groups * c.states * (c.is_complex ? 2 : 1)};
  const auto floats = [&](const Shape& shape) {
    return RandomNormal(random, shape).To(DType::kF32);
  };
  SelectiveScanInputs in;
  in.x = Rows(random, c, activation, c.activation);
  in.dt = Rows(random, c, activation, c.activation, -1, 1.5);
  in.A = floats(c.is_complex ? Shape({c.channels, c.states, 2}) : Shape({c.channels, c.states}));
  for (int64_t i = 0; i < in.A.elements(); i += c.is_complex ? 2 : 1) {
    in.A.data<float>()[i] = -std::exp(in.A.data<float>()[i]);
  }
  in.B = Rows(random, c, projection, c.projection);
  in.C = Rows(random, c, projection, c.projection);
  if (c.options) {
    in.D = floats({c.channels});
    in.dt_bias = floats({c.channels});
    in.z = Rows(random, c, activation, c.activation, 0, 2);
    in.interval = test::RandomUniform(random, {layout.rows()}, 0, 2).To(DType::kF32);
    in.h0 = floats(StateShape(c, layout.sequences()));
  }
  in.layout = layout;
  in.groups = c.groups;
  return in;
}

SelectiveScanInputs OnCuda(const SelectiveScanInputs& in) {
  SelectiveScanInputs copy = in;
  for (Tensor* tensor : {&copy.x, &copy.dt, &copy.A, &copy.B, &copy.C, &copy.D, &copy.dt_bias,
                         &copy.z, &copy.interval, &copy.h0}) {
    *tensor = test::OnCuda(*tensor);
  }
  return copy;
}

// Results of every kind; NaN before they are written.
SelectiveScanOutputs MakeOutputs(const Case& c, const SequenceLayout& layout, Device device) {
  const auto poisoned = [&](const Shape& shape, DType dtype) {
    const Tensor host = Tensor::Empty(shape, dtype);
    std::memset(host.raw(), 0xff, static_cast<size_t>(host.bytes()));
    return host.To(device);
  };
  return {.y = poisoned({layout.rows(), c.channels}, c.activation),
          .hT = poisoned(StateShape(c, layout.sequences()), DType::kF32),
          .chunk_states = poisoned(StateShape(c, ScanChunks(layout)), DType::kF32)};
}

// f32: some 100 roundings in a row, of sums whose terms cancel, and exponentials good to 2 units in
// the last place. 16 bits: one more rounding.
constexpr double kTolerance = 2e-5;
double Tolerance(DType dtype) {
  return dtype == DType::kF32 ? kTolerance : dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
}

void ExpectForwardAsOnCpu(Random& random, const Case& c, const SequenceLayout& layout) {
  SCOPED_TRACE(ToString(c, layout));
  const SelectiveScanInputs in = RandomInputs(random, c, layout);
  const SelectiveScanOutputs out = MakeOutputs(c, layout, {});
  SelectiveScan(in, out);
  const SelectiveScanInputs cuda_in = OnCuda(in);
  const SelectiveScanOutputs cuda_out = MakeOutputs(c, layout, kCuda);
  SelectiveScan(cuda_in, cuda_out);
  EXPECT_TRUE(Near(OnCpu(cuda_out.y), out.y, Tolerance(c.activation)));
  EXPECT_TRUE(Near(OnCpu(cuda_out.hT), out.hT, kTolerance));
  EXPECT_TRUE(Near(OnCpu(cuda_out.chunk_states), out.chunk_states, kTolerance));
}

SelectiveScanGradients MakeGradients(const SelectiveScanInputs& in, Device device) {
  const auto like = [&](const Tensor& tensor) {
    return tensor ? Tensor::Zeros(tensor.shape(), tensor.dtype(), device) : Tensor();
  };
  const int64_t channels = in.x.dim(1);
  SelectiveScanGradients g = {.dx = like(in.x),
                              .ddt = like(in.dt),
                              .dA = like(in.A),
                              .dB = like(in.B),
                              .dC = like(in.C),
                              .dD = Tensor::Zeros({channels}, DType::kF32, device),
                              .d_dt_bias = Tensor::Zeros({channels}, DType::kF32, device),
                              .dz = like(in.z),
                              .d_interval = Tensor::Zeros({in.x.dim(0)}, DType::kF32, device),
                              .dh0 = like(in.h0)};
  return g;
}

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

void ExpectAsOnCpu(Random& random, const Case& c, const SequenceLayout& layout) {
  SCOPED_TRACE(ToString(c, layout));
  ExpectForwardAsOnCpu(random, c, layout);
  const SelectiveScanInputs in = RandomInputs(random, c, layout);
  const SelectiveScanOutputs out = MakeOutputs(c, layout, {});
  SelectiveScan(in, out);
  const Tensor dy = Rows(random, c, in.x.shape(), c.activation);
  const Tensor dhT = c.options ? RandomNormal(random, out.hT.shape()).To(DType::kF32) : Tensor();
  const SelectiveScanGradients g = MakeGradients(in, {});
  SelectiveScanBackward(in, out.chunk_states, dy, dhT, g);
  const SelectiveScanInputs cuda_in = OnCuda(in);
  const auto backward = [&] {
    const SelectiveScanGradients results = MakeGradients(in, kCuda);
    SelectiveScanBackward(cuda_in, out.chunk_states.To(kCuda), test::OnCuda(dy), test::OnCuda(dhT),
                          results);
    return results;
  };
  const SelectiveScanGradients cuda_g = backward();
  const SelectiveScanGradients again = backward();
  for (const auto& [name, member] : AllGradients()) {
    if (!(g.*member)) continue;
    const DType dtype = (g.*member).dtype();
    // Sums of many terms: their order differs. The terms of dB and dC in bf16 are rounded to it
    // before they are added, which can move a sum to bf16's next number: 2^-7 of the value.
    const bool rounded = dtype == DType::kBF16 && (name == "B" || name == "C");
    const double rounding = dtype == DType::kF32 ? 0.0 : (rounded ? 2 : 1) * Tolerance(dtype);
    EXPECT_TRUE(Near(OnCpu(cuda_g.*member), g.*member, 4e-5 + rounding)) << "gradient of " << name;
    EXPECT_TRUE(SameBits(OnCpu(again.*member), OnCpu(cuda_g.*member))) << name << " again";
  }
}

TEST_F(SelectiveScanCudaTest, MatchesTheCpuOnAllLayouts) {
  Random random(1);
  for (const SequenceLayout& layout : test::SequenceLayouts()) {
    ExpectAsOnCpu(random, {}, layout);
    ExpectAsOnCpu(random, {.channels = 70, .states = 16, .options = false}, layout);
    ExpectAsOnCpu(random, {.channels = 18, .states = 2, .is_complex = true}, layout);
  }
}

TEST_F(SelectiveScanCudaTest, MatchesTheCpuForAnyNumberOfStates) {
  Random random(2);
  for (const int64_t states : {1, 2, 3, 5, 7, 8, 9, 16, 17, 32, 33, 64, 100, 256}) {
    const SequenceLayout layout({0, 3, 3, 80, 150});
    ExpectAsOnCpu(random, {.channels = 41, .states = states}, layout);
    ExpectAsOnCpu(random, {.channels = 35, .states = states, .is_complex = true}, layout);
  }
}

TEST_F(SelectiveScanCudaTest, MatchesTheCpuForAnyNumberOfChannelsAndGroups) {
  Random random(3);
  const SequenceLayout layout({0, 3, 4, 71});
  for (const int64_t channels : {1, 2, 31, 63, 64, 65, 128, 200}) {
    ExpectAsOnCpu(random, {.channels = channels, .states = 16}, layout);
    ExpectAsOnCpu(random, {.channels = channels, .states = 4, .gap = 3}, layout);
  }
  for (const int64_t groups : {2, 3, 6}) {
    ExpectAsOnCpu(random, {.channels = 198, .states = 5, .groups = groups}, layout);
    ExpectAsOnCpu(random, {.channels = 36, .states = 3, .is_complex = true, .groups = groups},
                  layout);
  }
}

TEST_F(SelectiveScanCudaTest, MatchesTheCpuInHalfPrecision) {
  Random random(4);
  const SequenceLayout layout({0, 40, 41, 41, 130});
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const int64_t gap : {0, 1, 8}) {
      const Case c = {
          .channels = 136, .states = 16, .activation = dtype, .projection = dtype, .gap = gap};
      ExpectAsOnCpu(random, c, layout);
    }
    ExpectAsOnCpu(random,
                  {.channels = 35, .states = 9, .activation = dtype, .projection = DType::kF32},
                  layout);
    ExpectAsOnCpu(random,
                  {.channels = 35, .states = 9, .activation = DType::kF32, .projection = dtype},
                  layout);
  }
}

// Sequences that end at, before and behind the ends of tiles, with channels and strides that whole
// pieces can be moved of.
TEST_F(SelectiveScanCudaTest, MatchesTheCpuAroundTiles) {
  Random random(9);
  std::vector<int64_t> offsets = {0};
  for (const int64_t length : {1, 2, 7, 8, 9, 15, 16, 17, 24, 25, 31, 32, 33, 47, 48, 49, 64, 65}) {
    offsets.push_back(offsets.back() + length);
  }
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const bool options : {false, true}) {
      for (const int64_t groups : {1, 2}) {
        const Case c = {.channels = 128,
                        .states = 16,
                        .groups = groups,
                        .options = options,
                        .activation = dtype,
                        .projection = dtype};
        ExpectForwardAsOnCpu(random, c, SequenceLayout(offsets));
      }
    }
  }
}

// Long enough that it is cut into segments.
TEST_F(SelectiveScanCudaTest, MatchesTheCpuOnLongSequences) {
  Random random(5);
  ExpectAsOnCpu(random, {.channels = 20, .states = 16}, SequenceLayout::Single(20000));
  ExpectAsOnCpu(random, {.channels = 70, .states = 4, .is_complex = true},
                SequenceLayout({0, 7, 9001, 9001, 20011}));
  ExpectAsOnCpu(random, {.channels = 6, .states = 5, .options = false},
                SequenceLayout({0, 5001, 15003}));
}

// dx, ddt and dz on x, dt and z, which the backward reads more than once: whole chunks and parts of
// them, whole blocks of channels and parts of them.
TEST_F(SelectiveScanCudaTest, GradientsMayLieOnWhatTheyAreOf) {
  Random random(9);
  const SequenceLayout layout({0, 192, 192, 250, 400});
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t channels : {128, 150}) {
      const Case c = {.channels = channels, .states = 16, .activation = dtype, .projection = dtype};
      SCOPED_TRACE(ToString(c, layout));
      const SelectiveScanInputs in = RandomInputs(random, c, layout);
      const SelectiveScanOutputs out = MakeOutputs(c, layout, {});
      SelectiveScan(in, out);
      const Tensor chunk_states = out.chunk_states.To(kCuda);
      const Tensor dy = test::OnCuda(Rows(random, c, in.x.shape(), dtype));
      const SelectiveScanGradients apart = MakeGradients(in, kCuda);
      SelectiveScanBackward(OnCuda(in), chunk_states, dy, Tensor(), apart);
      const SelectiveScanInputs under = OnCuda(in);
      SelectiveScanGradients on = MakeGradients(in, kCuda);
      on.dx = under.x;
      on.ddt = under.dt;
      on.dz = under.z;
      SelectiveScanBackward(under, chunk_states, dy, Tensor(), on);
      for (const auto& [name, member] : AllGradients()) {
        EXPECT_TRUE(SameBits(OnCpu(on.*member), OnCpu(apart.*member))) << "gradient of " << name;
      }
    }
  }
}

// More blocks than run at a time: the backward cuts sequences into segments that wait for each
// other.
TEST_F(SelectiveScanCudaTest, MatchesTheCpuOnMoreThanTheDeviceDoesAtATime) {
  Random random(8);
  ExpectAsOnCpu(random, {.channels = 1024, .states = 16}, SequenceLayout::Uniform(20, 300));
  ExpectAsOnCpu(random,
                {.channels = 1000,
                 .states = 16,
                 .options = false,
                 .activation = DType::kBF16,
                 .projection = DType::kBF16},
                SequenceLayout({0,    700,  701,  701,  1400, 1463, 1527, 2300, 2301, 2900, 3000,
                                3500, 3564, 3700, 3900, 4500, 4600, 5300, 5400, 6000, 6600, 6640}));
}

// A row of each of many sequences, as in generation: the state is overwritten in place.
TEST_F(SelectiveScanCudaTest, MatchesTheCpuOnSteps) {
  Random random(7);
  for (const Case& c :
       {Case{.channels = 75, .states = 16},
        Case{.channels = 64, .states = 16, .activation = DType::kBF16, .projection = DType::kBF16},
        Case{.channels = 66, .states = 9, .groups = 3, .gap = 1},
        Case{.channels = 5, .states = 1, .options = false}, Case{.channels = 20, .states = 40}}) {
    for (const int64_t sequences : {1, 3, 4, 9}) {
      const SequenceLayout layout = SequenceLayout::Uniform(sequences, 1);
      SCOPED_TRACE(ToString(c, layout));
      const SelectiveScanInputs in = RandomInputs(random, c, layout);
      SelectiveScanOutputs out = MakeOutputs(c, layout, {});
      SelectiveScanOutputs cuda_out = MakeOutputs(c, layout, kCuda);
      out.chunk_states = cuda_out.chunk_states = Tensor();
      SelectiveScanInputs cuda_in = OnCuda(in);
      if (cuda_in.h0) cuda_out.hT = cuda_in.h0;
      SelectiveScan(in, out);
      SelectiveScan(cuda_in, cuda_out);
      EXPECT_TRUE(Near(OnCpu(cuda_out.y), out.y, Tolerance(c.activation)));
      EXPECT_TRUE(Near(OnCpu(cuda_out.hT), out.hT, kTolerance));
    }
  }
}

TEST_F(SelectiveScanCudaTest, WholeEqualsChunksEqualsRows) {
  Random random(6);
  for (const Case& c :
       {Case{.channels = 75, .states = 7}, Case{.channels = 75, .states = 7, .is_complex = true},
        Case{.channels = 80, .states = 16},
        Case{.channels = 64,
        .states = 16,
        .activation = DType::kBF16,
        .projection = DType::kBF16}}) {
    const SelectiveScanInputs in = OnCuda(RandomInputs(random, c, SequenceLayout::Single(200)));
    const SelectiveScanOutputs whole = MakeOutputs(c, in.layout, kCuda);
    SelectiveScan(in, whole);
    const std::vector<std::vector<int64_t>> splits = {
        std::vector<int64_t>(200, 1), {64, 64, 64, 8}, {1, 99, 37, 63}};
    for (const std::vector<int64_t>& lengths : splits) {
      const Tensor y = MakeOutputs(c, in.layout, kCuda).y;
      const Tensor h = in.h0.Clone();
      int64_t begin = 0;
      for (const int64_t length : lengths) {
        SelectiveScanInputs part = in;
        for (Tensor* tensor : {&part.x, &part.dt, &part.z, &part.B, &part.C, &part.interval}) {
          *tensor = tensor->Rows(begin, length);
        }
        part.layout = SequenceLayout::Single(length);
        part.h0 = h;
        SelectiveScan(part, {.y = y.Rows(begin, length), .hT = h, .chunk_states = {}});
        begin += length;
      }
      EXPECT_TRUE(SameBits(OnCpu(y), OnCpu(whole.y)));
      EXPECT_TRUE(SameBits(OnCpu(h), OnCpu(whole.hT)));
    }
  }
}

}  // namespace
}  // namespace adder
