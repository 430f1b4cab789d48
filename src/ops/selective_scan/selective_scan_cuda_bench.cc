// Prints selective_scan's times on a CUDA device beside those of the official kernels and the
// floors; of the lines that contain the argument where one is given. The peer's are
// mamba_ssm 2.3.2's on an NVIDIA H100 80GB HBM3, so that the ratios mean something on that GPU
// only.
#include <cmath>
#include <exception>

#include "adder/backend/cuda/cuda_bench.h"
#include "adder/core/error.h"
#include "adder/ops/selective_scan/selective_scan.h"

namespace adder {
namespace {

using bench::kCuda;

struct Case {
  int64_t sequences, channels, length, states;
  DType dtype;
  double peer_forward, peer_both;  // seconds; 0: not measured
};

constexpr double kMs = 1e-3;
const Case kCases[] = {{8, 2048, 2048, 16, DType::kBF16, 0.594 * kMs, 3.03 * kMs},
                       {8, 5120, 2048, 16, DType::kBF16, 1.456 * kMs, 7.41 * kMs},
                       {8, 2048, 2048, 64, DType::kBF16, 1.969 * kMs, 11.26 * kMs},
                       {16, 1536, 2048, 16, DType::kBF16, 0, 0},
                       {1, 1024, 512, 16, DType::kBF16, 0.0245 * kMs, 0},
                       {1, 1024, 2048, 16, DType::kBF16, 0.0516 * kMs, 0},
                       {1, 1024, 8192, 16, DType::kBF16, 0.194 * kMs, 0.969 * kMs},
                       {1, 1024, 65536, 16, DType::kBF16, 1.468 * kMs, 7.15 * kMs},
                       {1, 1024, 524288, 16, DType::kBF16, 11.48 * kMs, 57.2 * kMs},
                       {8, 2048, 2048, 16, DType::kF32, 1.159 * kMs, 3.85 * kMs},
                       {128, 4096, 1, 16, DType::kBF16, 0, 0}};

struct Call {
  SelectiveScanInputs in;
  SelectiveScanOutputs out;
  Tensor dy;
  SelectiveScanGradients g;

  void Forward() const { SelectiveScan(in, {.y = out.y, .hT = out.hT, .chunk_states = {}}); }
  void Both() const {
    SelectiveScan(in, out);
    SelectiveScanBackward(in, out.chunk_states, dy, Tensor(), g);
  }
};

Call MakeCall(const Case& c, uint64_t seed) {
  Random random(seed);
  const int64_t rows = c.sequences * c.length;
  Call call;
  call.in.x = bench::RandomRows(random, rows, c.channels, c.dtype);
  call.in.dt = bench::RandomRows(random, rows, c.channels, c.dtype);
  call.in.z = bench::RandomRows(random, rows, c.channels, c.dtype);
  call.in.B = bench::RandomRows(random, rows, c.states, c.dtype);
  call.in.C = bench::RandomRows(random, rows, c.states, c.dtype);
  // As Mamba is initialised: A = -1 ... -N, steps of 0.001 to 0.1.
  const Tensor A = Tensor::Empty({c.channels, c.states}, DType::kF32);
  for (int64_t i = 0; i < A.elements(); ++i) {
    A.data<float>()[i] = -static_cast<float>(i % c.states + 1);
  }
  const auto constant = [&](float value) {
    const Tensor t = Tensor::Empty({c.channels}, DType::kF32);
    std::fill_n(t.data<float>(), c.channels, value);
    return t.To(kCuda);
  };
  call.in.A = A.To(kCuda);
  call.in.D = constant(1);
  call.in.dt_bias = constant(-5);
  call.in.layout = SequenceLayout::Uniform(c.sequences, c.length);
  const auto like = [](const Tensor& t) { return Tensor::Zeros(t.shape(), t.dtype(), kCuda); };
  call.out.y = like(call.in.x);
  if (c.length == 1) {  // a decoding step
    call.in.h0 = Tensor::Zeros({c.sequences, c.channels, c.states}, DType::kF32, kCuda);
    call.out.hT = call.in.h0;
    return call;
  }
  call.out.chunk_states =
      Tensor::Empty({ScanChunks(call.in.layout), c.channels, c.states}, DType::kF32, kCuda);
  call.dy = bench::RandomRows(random, rows, c.channels, c.dtype);
  call.g = {.dx = like(call.in.x),
            .ddt = like(call.in.dt),
            .dA = like(call.in.A),
            .dB = like(call.in.B),
            .dC = like(call.in.C),
            .dD = like(call.in.D),
            .d_dt_bias = like(call.in.dt_bias),
            .dz = like(call.in.z),
            .d_interval = {},
            .dh0 = {}};
  return call;
}

// The first rows against the CPU's. Throws kNumeric when they disagree.
void Check(const Call& call) {
  const int64_t rows = std::min<int64_t>(call.in.layout.length(0), 300);
  const Tensor cpu = Tensor::Empty({rows, call.in.x.dim(1)}, call.in.x.dtype());
  SelectiveScanInputs in = call.in;
  for (Tensor* t : {&in.x, &in.dt, &in.z, &in.B, &in.C}) *t = t->Rows(0, rows).To(Device{});
  for (Tensor* t : {&in.A, &in.D, &in.dt_bias}) *t = t->To(Device{});
  in.h0 = Tensor();
  in.layout = SequenceLayout::Single(rows);
  SelectiveScan(in, {.y = cpu, .hT = {}, .chunk_states = {}});
  const Tensor expected = cpu.To(DType::kF64);
  const Tensor actual = call.out.y.Rows(0, rows).To(Device{}).To(DType::kF64);
  double error = 0;
  double size = 0;
  for (int64_t i = 0; i < expected.elements(); ++i) {
    error += std::pow(actual.data<double>()[i] - expected.data<double>()[i], 2);
    size += std::pow(expected.data<double>()[i], 2);
  }
  if (!(std::sqrt(error / size) < (call.in.x.dtype() == DType::kF32 ? 1e-5 : 4e-3))) {
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
  // 16 exponentials a clock and multiprocessor; one a state, three for softplus and gate.
  const double exponentials = 16.0 * device.multiprocessors * 1.755e9;
  for (const Case& c : kCases) {
    const std::string shape = fmt::format("({}, {}, {}, {}) {}", c.sequences, c.channels, c.length,
                                          c.states, DTypeName(c.dtype));
    const std::string forward_name = "forward " + shape;
    const std::string both_name = "forward + backward " + shape;
    const bool times_forward = forward_name.find(name) != std::string::npos;
    const bool times_both = c.length > 1 && both_name.find(name) != std::string::npos;
    if (!times_forward && !times_both) continue;
    std::vector<Call> calls;
    const auto elements = static_cast<double>(c.sequences * c.channels * c.length);
    // Enough copies that each finds nothing of its own in the cache.
    const int copies = elements > 3e7 ? 2 : 4;
    for (int i = 0; i < copies; ++i) calls.push_back(MakeCall(c, static_cast<uint64_t>(i)));
    calls[0].Forward();
    if (c.length > 1) Check(calls[0]);
    const double size = c.dtype == DType::kF32 ? 4 : 2;
    double bytes = elements * 4 * size;
    if (c.length == 1) bytes += elements * static_cast<double>(c.states) * 8;
    const double floor =
        std::max(bytes / copy, elements * static_cast<double>(c.states + 3) / exponentials);
    std::vector<std::function<void()>> forward;
    std::vector<std::function<void()>> both;
    for (const Call& call : calls) {
      forward.emplace_back([call] { call.Forward(); });
      both.emplace_back([call] { call.Both(); });
    }
    if (times_forward) {
      bench::PrintLine(forward_name, c.peer_forward, floor, bench::MedianSeconds(forward));
    }
    if (times_both) bench::PrintLine(both_name, c.peer_both, 0, bench::MedianSeconds(both));
  }
}

}  // namespace
}  // namespace adder

int main(int argc, char** argv) {
  try {
    adder::Run(argc > 1 ? argv[1] : "");
  } catch (const std::exception& error) {
    fmt::print(stderr, "selective_scan_cuda_bench: {}\n", error.what());
    return 1;
  }
}
