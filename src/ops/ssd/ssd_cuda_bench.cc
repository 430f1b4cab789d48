// Prints ssd's times on a CUDA device beside those of the official kernels and the floors; of the
// lines that contain the argument where one is given. The peer's are mamba_ssm 2.3.2's
// (mamba_chunk_scan_combined, chunks of 256 rows) on an NVIDIA H100 80GB HBM3, so that the ratios
// mean something on that GPU only.
#include <cmath>
#include <exception>

#include "adder/backend/cuda/cuda_bench.h"
#include "adder/core/error.h"
#include "adder/ops/ssd/ssd.h"

namespace adder {
namespace {

using bench::kCuda;

constexpr int64_t kHeadDim = 64;
constexpr int64_t kStates = 128;

struct Case {
  int64_t sequences, heads, length;
  DType dtype;
  double peer_forward, peer_both;  // seconds; 0: not measured
};

constexpr double kMs = 1e-3;
const Case kCases[] = {{8, 80, 2048, DType::kBF16, 0.747 * kMs, 5.06 * kMs},
                       {16, 24, 2048, DType::kBF16, 1.10 * kMs, 3.29 * kMs},
                       {1, 32, 65536, DType::kBF16, 1.56 * kMs, 6.51 * kMs},
                       {1, 32, 524288, DType::kBF16, 12.8 * kMs, 52.1 * kMs},
                       {8, 80, 2048, DType::kF16, 0, 0},
                       {8, 80, 2048, DType::kF32, 0, 0},
                       {128, 80, 1, DType::kBF16, 0, 0},
                       {128, 24, 1, DType::kBF16, 0, 0}};

struct Call {
  SsdInputs in;
  SsdOutputs out;
  Tensor dy;
  SsdGradients g;

  void Forward() const { Ssd(in, {.y = out.y, .hT = out.hT, .chunk_states = {}}); }
  void Both() const {
    Ssd(in, out);
    SsdBackward(in, out.chunk_states, dy, Tensor(), g);
  }
};

Call MakeCall(const Case& c, uint64_t seed, bool both) {
  Random random(seed);
  const int64_t rows = c.sequences * c.length;
  const int64_t channels = c.heads * kHeadDim;
  Call call;
  call.in.x = bench::RandomRows(random, rows, channels, c.dtype);
  call.in.dt = bench::RandomRows(random, rows, c.heads, c.dtype);
  call.in.B = bench::RandomRows(random, rows, kStates, c.dtype);
  call.in.C = bench::RandomRows(random, rows, kStates, c.dtype);
  // As Mamba-2 is initialised: A from -1 to -16, steps of 0.001 to 0.1.
  const Tensor A = Tensor::Empty({c.heads}, DType::kF32);
  for (int64_t h = 0; h < c.heads; ++h) A.data<float>()[h] = -static_cast<float>(h % 16 + 1);
  const auto constant = [&](float value) {
    const Tensor t = Tensor::Empty({c.heads}, DType::kF32);
    std::fill_n(t.data<float>(), c.heads, value);
    return t.To(kCuda);
  };
  call.in.A = A.To(kCuda);
  call.in.D = constant(1);
  call.in.dt_bias = constant(-5);
  call.in.layout = SequenceLayout::Uniform(c.sequences, c.length);
  call.in.head_dim = kHeadDim;
  const auto like = [](const Tensor& t) { return Tensor::Zeros(t.shape(), t.dtype(), kCuda); };
  call.out.y = like(call.in.x);
  if (c.length == 1) {  // a decoding step
    call.in.h0 = Tensor::Zeros({c.sequences, c.heads, kHeadDim, kStates}, DType::kF32, kCuda);
    call.out.hT = call.in.h0;
  }
  if (!both) return call;
  call.out.chunk_states =
      Tensor::Empty({SsdChunks(call.in.layout), c.heads, kHeadDim, kStates}, DType::kF32, kCuda);
  call.dy = bench::RandomRows(random, rows, channels, c.dtype);
  call.g = {.dx = like(call.in.x),
            .ddt = like(call.in.dt),
            .dA = like(call.in.A),
            .dB = like(call.in.B),
            .dC = like(call.in.C),
            .dD = like(call.in.D),
            .d_dt_bias = like(call.in.dt_bias),
            .d_interval = {},
            .dh0 = {}};
  return call;
}

// The first rows against the CPU's. Throws kNumeric when they disagree.
void Check(const Call& call) {
  const int64_t rows = std::min<int64_t>(call.in.layout.length(0), 300);
  const Tensor cpu = Tensor::Empty({rows, call.in.x.dim(1)}, call.in.x.dtype());
  SsdInputs in = call.in;
  for (Tensor* t : {&in.x, &in.dt, &in.B, &in.C}) *t = t->Rows(0, rows).To(Device{});
  for (Tensor* t : {&in.A, &in.D, &in.dt_bias}) *t = t->To(Device{});
  in.h0 = Tensor();
  in.layout = SequenceLayout::Single(rows);
  Ssd(in, {.y = cpu, .hT = {}, .chunk_states = {}});
  const Tensor expected = cpu.To(DType::kF64);
  const Tensor actual = call.out.y.Rows(0, rows).To(Device{}).To(DType::kF64);
  double error = 0;
  double size = 0;
  for (int64_t i = 0; i < expected.elements(); ++i) {
    error += std::pow(actual.data<double>()[i] - expected.data<double>()[i], 2);
    size += std::pow(expected.data<double>()[i], 2);
  }
  if (!(std::sqrt(error / size) < (call.in.x.dtype() == DType::kF32 ? 1e-5 : 6e-3))) {
    throw Error(ErrorCode::kNumeric,
                fmt::format("the results are off by {} of their size", std::sqrt(error / size)));
  }
}

// `name`: part of the names of the lines to print, all where empty.
void Run(const std::string& name) {
  const cuda::DeviceInfo device = cuda::GetModule().Devices()[0];
  const double copy = bench::CopyBytesPerSecond();
  fmt::print("{}, {} multiprocessors, copy {:.2f} TB/s\n", device.name, device.multiprocessors,
             copy / 1e12);
  for (const Case& c : kCases) {
    const std::string shape = fmt::format("({}, {}, {} x {}, {}) {}", c.sequences, c.length,
                                          c.heads, kHeadDim, kStates, DTypeName(c.dtype));
    const std::string forward_name = "forward " + shape;
    const std::string both_name = "forward + backward " + shape;
    const bool times_forward = forward_name.find(name) != std::string::npos;
    const bool times_both = c.length > 1 && both_name.find(name) != std::string::npos;
    if (!times_forward && !times_both) continue;
    const auto elements = static_cast<double>(c.sequences * c.length * c.heads * kHeadDim);
    const double size = c.dtype == DType::kF32 ? 4 : 2;
    // x and y, and in decoding the states, which are f32, read and written.
    double bytes = elements * 2 * size;
    if (c.length == 1) bytes += elements * kStates * 8;
    // Enough copies that each finds nothing of its own in the cache, if they fit.
    const int copies = elements > 2e8 ? 1 : 2;
    if (times_forward) {
      std::vector<Call> calls;
      for (int i = 0; i < copies; ++i) {
        calls.push_back(MakeCall(c, static_cast<uint64_t>(i), false));
      }
      calls[0].Forward();
      if (c.length > 1) Check(calls[0]);
      std::vector<std::function<void()>> forward;
      for (const Call& call : calls) forward.emplace_back([call] { call.Forward(); });
      bench::PrintLine(forward_name, c.peer_forward, bytes / copy, bench::MedianSeconds(forward));
    }
    if (times_both) {
      std::vector<std::function<void()>> both;
      for (int i = 0; i < copies; ++i) {
        const Call call = MakeCall(c, static_cast<uint64_t>(i), true);
        both.emplace_back([call] { call.Both(); });
      }
      bench::PrintLine(both_name, c.peer_both, 0, bench::MedianSeconds(both));
    }
    cuda::GetModule().ReleaseCached(0);
  }
}

}  // namespace
}  // namespace adder

int main(int argc, char** argv) {
  try {
    adder::Run(argc > 1 ? argv[1] : "");
  } catch (const std::exception& error) {
    fmt::print(stderr, "ssd_cuda_bench: {}\n", error.what());
    return 1;
  }
}
