// adder bench scan: the selective scan beside the exponential that bounds it, and its time per row
// from short sequences to long ones.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/cli/bench.h"
#include "adder/cli/numbers.h"
#include "adder/ops/selective_scan/selective_scan_benchmark.h"

namespace adder {
namespace {

// A million rows of a whole model would need tens of gigabytes; these need 4.3.
constexpr int64_t kLengthsChannels = 256;

struct Options {
  SelectiveScanBenchmarkOptions scan;
  std::string dtype = "f32";
  bool lengths = false;
  bool channels_given = false;
  bool json = false;
};

void Run(const Options& options) {
  SelectiveScanBenchmarkOptions scan = options.scan;
  scan.dtype = ParseDType(options.dtype);
  if (options.lengths) {
    if (!options.channels_given) scan.channels = kLengthsChannels;
    const std::vector<int64_t> rows = {1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20};
    const std::vector<double> times = MeasureSelectiveScanLengths(scan, rows);
    BenchTable table = {.columns = {"rows", "forward_ns_per_row"}, .rows = {}};
    for (size_t i = 0; i < rows.size(); ++i) table.rows.push_back({rows[i], times[i]});
    PrintTable(table, options.json);
    return;
  }
  const SelectiveScanBenchmark result = MeasureSelectiveScan(scan);
  PrintFields({{"rows", scan.rows},
               {"channels", scan.channels},
               {"states", scan.states},
               {"dtype", options.dtype},
               {"gate", scan.gate},
               {"threads", cpu::ThreadCount()},
               {"exp_per_s", result.exp_per_s},
               {"forward_ns_per_row", result.forward_ns_per_row},
               {"backward_ns_per_row", result.backward_ns_per_row},
               {"forward_exp_per_s", result.forward_exp_per_s},
               {"forward_share_of_exp_roof", result.ceiling_share},
               {"backward_to_forward", result.backward_ratio}},
              options.json);
}

}  // namespace

void AddBenchScan(CLI::App& bench) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      bench.add_subcommand("scan", "The selective scan, beside the exponential alone");
  const auto add = [&](const char* name, int64_t& value, const char* help, int64_t most) {
    command->add_option(name, value, help)
        ->transform(WholeNumber(1, most))
        ->type_name("N")
        ->capture_default_str();
  };
  add("--rows", options->scan.rows, "Rows of the sequence", 1 << 22);
  add("--channels", options->scan.channels, "Channels", 1 << 16);
  add("--states", options->scan.states, "States of a channel", 1 << 10);
  AddDTypeOption(*command, options->dtype);
  command->add_flag("--gate", options->scan.gate, "With a gate");
  command->add_option("--seconds", options->scan.seconds, "How long to measure")
      ->check(CLI::Range(0.01, 3600.0))
      ->type_name("S")
      ->capture_default_str();
  command->add_flag("--lengths", options->lengths,
                    "Time per row for 2^10 to 2^20 rows instead, of 256 channels if not given");
  AddJsonOption(*command, options->json);
  command->callback([options, command] {
    options->channels_given = command->count("--channels") > 0;
    Run(*options);
  });
}

}  // namespace adder
