// adder bench tensors: an operator on inputs that another program wrote to a file, together with
// that program's results and time. The results are compared first, then ours is timed on the same
// inputs. Format and use: benchmarks/peers/README.md.
#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adder/backend/cuda/module.h"
#include "adder/backend/devices.h"
#include "adder/cli/bench.h"
#include "adder/cli/model_options.h"
#include "adder/core/error.h"
#include "adder/core/sequence_layout.h"
#include "adder/formats/safetensors.h"
#include "adder/ops/causal_conv1d/causal_conv1d.h"
#include "adder/ops/rms_norm/rms_norm.h"
#include "adder/ops/selective_scan/selective_scan.h"
#include "adder/ops/ssd/ssd.h"

namespace adder {
namespace {

constexpr double kSeconds = 0.3;  // of timing, at least
constexpr int kFewestRuns = 9;
constexpr int kMostRuns = 201;

struct Options {
  std::vector<std::string> files;
  std::string device = "auto";
  double tolerance = 0.02;
  bool json = false;
};

// A file's tensors, copied to a device, and its metadata.
class Inputs {
 public:
  Inputs(const SafetensorsFile& file, Device device) : file_(file), device_(device) {}

  Tensor Get(const std::string& name) const { return file_.Get(name).Clone().To(device_); }
  Tensor GetIfGiven(const std::string& name) const {
    return file_.Contains(name) ? Get(name) : Tensor();
  }
  bool backward() const { return file_.Contains("dy"); }
  Device device() const { return device_; }

  // A number of the metadata.
  double Number(const std::string& key) const {
    const auto found = file_.metadata().find(key);
    double value = 0;
    if (found != file_.metadata().end()) {
      const char* const end = found->second.data() + found->second.size();
      const auto [stop, status] = std::from_chars(found->second.data(), end, value);
      if (status == std::errc() && stop == end) return value;
    }
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: metadata \"{}\" is not there or no number",
                                                 file_.path().string(), key));
  }
  // Sequences of equal length.
  SequenceLayout Layout(int64_t rows) const {
    const auto sequences = static_cast<int64_t>(Number("sequences"));
    if (sequences < 1 || rows % sequences != 0) {
      throw Error(ErrorCode::kCorrupt, fmt::format("{}: {} rows in {} sequences of equal length",
                                                   file_.path().string(), rows, sequences));
    }
    return SequenceLayout::Uniform(sequences, rows / sequences);
  }

 private:
  const SafetensorsFile& file_;
  Device device_;
};

// A call and, by the names of the operator's contract, what it computes.
struct Call {
  std::function<void()> run;
  std::vector<std::pair<std::string, Tensor>> results;
};

Tensor Like(const Tensor& tensor) {
  return tensor ? Tensor::Empty(tensor.shape(), tensor.dtype(), tensor.device()) : Tensor();
}
// What gradients are added to.
Tensor ZerosLike(const Tensor& tensor) {
  return tensor ? Tensor::Zeros(tensor.shape(), DType::kF32, tensor.device()) : Tensor();
}

Call SelectiveScanCall(const Inputs& inputs) {
  SelectiveScanInputs in;
  in.x = inputs.Get("x");
  in.dt = inputs.Get("dt");
  in.A = inputs.Get("A");
  in.B = inputs.Get("B");
  in.C = inputs.Get("C");
  in.D = inputs.GetIfGiven("D");
  in.dt_bias = inputs.GetIfGiven("dt_bias");
  in.z = inputs.GetIfGiven("z");
  in.layout = inputs.Layout(in.x.dim(0));
  SelectiveScanOutputs out = {.y = Like(in.x), .hT = {}, .chunk_states = {}};
  if (!inputs.backward()) return {[=] { SelectiveScan(in, out); }, {{"y", out.y}}};
  out.chunk_states = Tensor::Empty({ScanChunks(in.layout), in.x.dim(1), in.A.dim(1)}, DType::kF32,
                                   inputs.device());
  const Tensor dy = inputs.Get("dy");
  const SelectiveScanGradients g = {.dx = Like(in.x),
                                    .ddt = Like(in.dt),
                                    .dA = ZerosLike(in.A),
                                    .dB = Like(in.B),
                                    .dC = Like(in.C),
                                    .dD = ZerosLike(in.D),
                                    .d_dt_bias = ZerosLike(in.dt_bias),
                                    .dz = Like(in.z)};
  return {[=] {
            SelectiveScan(in, out);
            SelectiveScanBackward(in, out.chunk_states, dy, {}, g);
          },
          {{"y", out.y},
           {"dx", g.dx},
           {"ddt", g.ddt},
           {"dA", g.dA},
           {"dB", g.dB},
           {"dC", g.dC},
           {"dD", g.dD},
           {"d_dt_bias", g.d_dt_bias},
           {"dz", g.dz}}};
}

Call CausalConv1dCall(const Inputs& inputs) {
  CausalConv1dInputs in;
  in.x = inputs.Get("x");
  in.weight = inputs.Get("weight");
  in.bias = inputs.GetIfGiven("bias");
  in.layout = inputs.Layout(in.x.dim(0));
  const CausalConv1dOutputs out = {.y = Like(in.x), .final_window = {}};
  if (!inputs.backward()) return {[=] { CausalConv1d(in, out); }, {{"y", out.y}}};
  const Tensor dy = inputs.Get("dy");
  const CausalConv1dGradients g = {.dx = Like(in.x),
                                   .dweight = ZerosLike(in.weight),
                                   .dbias = ZerosLike(in.bias),
                                   .d_initial_window = {}};
  return {[=] {
            CausalConv1d(in, out);
            CausalConv1dBackward(in, dy, {}, g);
          },
          {{"y", out.y}, {"dx", g.dx}, {"dweight", g.dweight}, {"dbias", g.dbias}}};
}

Call SsdCall(const Inputs& inputs) {
  SsdInputs in;
  in.x = inputs.Get("x");
  in.dt = inputs.Get("dt");
  in.A = inputs.Get("A");
  in.B = inputs.Get("B");
  in.C = inputs.Get("C");
  in.D = inputs.GetIfGiven("D");
  in.dt_bias = inputs.GetIfGiven("dt_bias");
  in.layout = inputs.Layout(in.x.dim(0));
  in.head_dim = in.x.dim(1) / in.A.dim(0);
  in.groups = static_cast<int64_t>(inputs.Number("groups"));
  SsdOutputs out = {.y = Like(in.x), .hT = {}, .chunk_states = {}};
  if (!inputs.backward()) return {[=] { Ssd(in, out); }, {{"y", out.y}}};
  out.chunk_states =
      Tensor::Empty({SsdChunks(in.layout), in.A.dim(0), in.head_dim, in.B.dim(1) / in.groups},
                    DType::kF32, inputs.device());
  const Tensor dy = inputs.Get("dy");
  SsdGradients g;
  g.dx = Like(in.x);
  g.ddt = Like(in.dt);
  g.dA = ZerosLike(in.A);
  g.dB = Like(in.B);
  g.dC = Like(in.C);
  g.dD = ZerosLike(in.D);
  g.d_dt_bias = ZerosLike(in.dt_bias);
  return {[=] {
            Ssd(in, out);
            SsdBackward(in, out.chunk_states, dy, {}, g);
          },
          {{"y", out.y},
           {"dx", g.dx},
           {"ddt", g.ddt},
           {"dA", g.dA},
           {"dB", g.dB},
           {"dC", g.dC},
           {"dD", g.dD},
           {"d_dt_bias", g.d_dt_bias}}};
}

Call RmsNormCall(const Inputs& inputs) {
  const RmsNormInputs in = {.x = inputs.Get("x"),
                            .residual = inputs.GetIfGiven("residual"),
                            .weight = inputs.Get("weight"),
                            .eps = static_cast<float>(inputs.Number("eps"))};
  const Tensor r = Tensor::Empty(in.x.shape(), DType::kF32, inputs.device());
  const RmsNormOutputs out = {.y = Like(in.x), .residual_out = r};
  if (!inputs.backward()) {
    return {[=] { RmsNorm(in, out); }, {{"y", out.y}, {"residual_out", r}}};
  }
  const Tensor dy = inputs.Get("dy");
  const RmsNormGradients g = {.dr = {}, .dx = Like(in.x), .dweight = ZerosLike(in.weight)};
  return {[=] {
            RmsNorm(in, out);
            RmsNormBackward(r, in.weight, in.eps, dy, {}, g);
          },
          {{"y", out.y}, {"residual_out", r}, {"dx", g.dx}, {"dweight", g.dweight}}};
}

using MakeCall = Call (*)(const Inputs&);
const std::map<std::string, MakeCall>& Operators() {
  static const std::map<std::string, MakeCall> operators = {{"causal_conv1d", CausalConv1dCall},
                                                            {"rms_norm", RmsNormCall},
                                                            {"selective_scan", SelectiveScanCall},
                                                            {"ssd", SsdCall}};
  return operators;
}

// The largest difference, relative to the largest of the peer's values.
double Difference(const Tensor& ours, const Tensor& peers, const std::string& name) {
  if (ours.shape() != peers.shape()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is {}, the peer's is {}", name, ours.ToString(), peers.ToString()));
  }
  const Tensor a = ours.To(Device{}).To(DType::kF32);
  const Tensor b = peers.Clone().To(DType::kF32);
  double largest = 0;
  double difference = 0;
  for (int64_t i = 0; i < a.elements(); ++i) {
    const double expected = static_cast<double>(b.data<float>()[i]);
    const double error = std::abs(static_cast<double>(a.data<float>()[i]) - expected);
    if (!(error <= difference)) difference = error;  // NaN too
    largest = std::max(largest, std::abs(expected));
  }
  return largest > 0 ? difference / largest : difference;
}

double MedianSecondsOf(const std::vector<Call>& calls, Device device) {
  const auto seconds_of = [&](const Call& call) {
    return device.type == DeviceType::kCuda ? cuda::GetModule().SecondsOf(device.index, call.run)
                                            : SecondsOf(call.run);
  };
  for (const Call& call : calls) call.run();
  std::vector<double> seconds;
  double sum = 0;
  while (seconds.size() < kFewestRuns || (sum < kSeconds && seconds.size() < kMostRuns)) {
    seconds.push_back(seconds_of(calls[seconds.size() % calls.size()]));
    sum += seconds.back();
  }
  return Median(seconds);
}

std::vector<JsonValue> Measure(const std::string& path, const Options& options, Device device) {
  const SafetensorsFile file = SafetensorsFile::Open(path);
  const Inputs inputs(file, device);
  const auto named = file.metadata().find("op");
  const auto op = Operators().find(named == file.metadata().end() ? "" : named->second);
  if (op == Operators().end()) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: metadata \"op\" is none of causal_conv1d, rms_norm, "
                            "selective_scan and ssd",
                            path));
  }
  // Two, so that what a call reads is not what the cache holds from the call before.
  std::vector<Call> calls(2);
  for (Call& call : calls) call = op->second(inputs);
  calls[0].run();
  std::string worst;
  double difference = -1;
  for (const auto& [name, ours] : calls[0].results) {
    if (!file.Contains("peer." + name) || !ours) continue;
    const double of_this = Difference(ours, file.Get("peer." + name), name);
    if (!(of_this <= options.tolerance)) {
      throw Error(ErrorCode::kNumeric,
                  fmt::format("{}: {} differs from the peer's by {:.2g} of its largest value, "
                              "expected at most {}",
                              path, name, of_this, options.tolerance));
    }
    if (of_this > difference) {
      difference = of_this;
      worst = name;
    }
  }
  if (worst.empty()) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: no result of the peer to compare with", path));
  }
  const double peer = inputs.Number("seconds");
  const double ours = MedianSecondsOf(calls, device);
  const auto title = file.metadata().find("title");
  return {title == file.metadata().end() ? path : title->second,
          peer * 1e3,
          ours * 1e3,
          peer / ours,
          worst,
          difference};
}

void Run(const Options& options) {
  const Device device = ChosenDevice(options.device);
  BenchTable table = {.columns = {"work", "peer_ms", "ms", "ratio", "most_different", "difference"},
                      .rows = {}};
  for (const std::string& file : options.files) {
    table.rows.push_back(Measure(file, options, device));
  }
  PrintTable(table, options.json);
}

}  // namespace

void AddBenchTensors(CLI::App& bench) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand(
      "tensors", "Operators on inputs that a peer wrote, beside the peer's results and times");
  command->add_option("FILE", options->files, "safetensors files, an operator's inputs each")
      ->required()
      ->check(CLI::ExistingFile);
  AddDeviceOption(*command, options->device);
  command
      ->add_option("--tolerance", options->tolerance,
                   "Largest difference of a result, of its largest value")
      ->check(CLI::NonNegativeNumber)
      ->type_name("SHARE")
      ->capture_default_str();
  AddJsonOption(*command, options->json);
  command->callback([options] { Run(*options); });
}

}  // namespace adder
