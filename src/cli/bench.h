// What the subcommands of `adder bench` share: options, timing, and printing as text or JSON.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "adder/core/device.h"
#include "adder/data/byte_corpus.h"
#include "adder/formats/json.h"
#include "adder/models/block_language_model.h"

namespace adder {

void AddBenchRoofs(CLI::App& bench);
void AddBenchScan(CLI::App& bench);
void AddBenchContext(CLI::App& bench);
void AddBenchOps(CLI::App& bench);
void AddBenchGenerate(CLI::App& bench);
void AddBenchLength(CLI::App& bench);
void AddBenchTensors(CLI::App& bench);
void AddBenchTokenize(CLI::App& bench);
void AddBenchTrainStep(CLI::App& bench);

// --json, --dtype and --repetitions of a command.
void AddJsonOption(CLI::App& command, bool& json);
void AddDTypeOption(CLI::App& command, std::string& dtype);
void AddRepetitionsOption(CLI::App& command, int& repetitions);

// What results were measured on: "device", its name where it is not the CPU, "threads".
std::vector<JsonValue::Member> DeviceFields(Device device);
// The most bytes of its memory that were in use at once since this was last asked; null for the
// CPU.
JsonValue PeakDeviceBytes(Device device);
// The same for any device; of the host's memory, large blocks of tensors.
int64_t PeakBytes(Device device);

// Random bytes to train on, as a file in memory.
ByteCorpus RandomText(int64_t bytes);

// What the matrix products of a model's forward cost for one row, a multiply-add being two.
struct MatrixFlops {
  double blocks = 0;  // all projections, whatever the architecture calls them
  double head = 0;
};
MatrixFlops MatrixFlopsOfARow(const BlockLanguageModel& model);

// Wall-clock seconds of one call, and of what it asked of the device.
double SecondsOf(const std::function<void()>& work, Device device = {});
// values is not empty.
double Median(std::vector<double> values);

// Named numbers, in this order: "name  value" on a line each, or one JSON object.
void PrintFields(const std::vector<JsonValue::Member>& fields, bool json);

// Rows under column names: an aligned table, or a JSON array of objects.
struct BenchTable {
  std::vector<std::string> columns;
  std::vector<std::vector<JsonValue>> rows;
};
void PrintTable(const BenchTable& table, bool json);

}  // namespace adder
