// adder bench roofs: the machine's ceilings, on one thread and on all.
#include <fmt/core.h>

#include <memory>
#include <set>
#include <string>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/roofs.h"
#include "adder/cli/bench.h"

namespace adder {
namespace {

void Run(bool json) {
  BenchTable table = {.columns = {"roof", "threads", "rate", "unit", "isa"}, .rows = {}};
  const std::set<int> thread_counts = {1, cpu::ThreadCount()};
  const auto isa = cpu::InstructionSetName(cpu::ActiveInstructionSet());
  for (const cpu::Roof roof : cpu::AllRoofs()) {
    for (const int threads : thread_counts) {
      const double rate = cpu::MeasureRoof(roof, threads);
      // In units of 1e9 for people, in plain units for programs.
      table.rows.push_back({cpu::RoofName(roof), threads, json ? rate : rate / 1e9,
                            fmt::format("{}{}", json ? "" : "G", cpu::RoofUnit(roof)), isa});
    }
  }
  PrintTable(table, json);
}

}  // namespace

void AddBenchRoofs(CLI::App& bench) {
  const auto json = std::make_shared<bool>(false);
  CLI::App* command = bench.add_subcommand(
      "roofs", "The machine's ceilings: arithmetic, exponentials, memory, matrix products");
  AddJsonOption(*command, *json);
  command->callback([json] { Run(*json); });
}

}  // namespace adder
