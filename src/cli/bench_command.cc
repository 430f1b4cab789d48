// adder bench: what this machine can do and how much of it Adder uses.
#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/devices.h"
#include "adder/cli/bench.h"
#include "adder/cli/commands.h"
#include "adder/cli/numbers.h"
#include "adder/cli/standard_output.h"
#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/core/storage.h"

namespace adder {
namespace {

// Numbers to four digits: what a benchmark's noise leaves of them.
std::string CellText(const JsonValue& value) {
  if (const std::string* text = value.AsString()) return *text;
  double number = 0;
  if (value.AsInt() == nullptr && value.AsDouble(&number)) return fmt::format("{:.4g}", number);
  return value.ToText();
}

}  // namespace

void AddJsonOption(CLI::App& command, bool& json) {
  command.add_flag("--json", json, "Print JSON");
}

void AddDTypeOption(CLI::App& command, std::string& dtype) {
  command.add_option("--dtype", dtype, "What to compute in: f32 or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->type_name("TYPE")
      ->capture_default_str();
}

void AddRepetitionsOption(CLI::App& command, int& repetitions) {
  command.add_option("--repetitions", repetitions, "Measurements to take the median of")
      ->transform(WholeNumber(1, 1000))
      ->type_name("N")
      ->capture_default_str();
}

std::vector<JsonValue::Member> DeviceFields(Device device) {
  std::vector<JsonValue::Member> fields = {{"device", ToString(device)}};
  if (device.type == DeviceType::kCuda) {
    for (const cuda::DeviceInfo& info : cuda::GetModule().Devices()) {
      if (info.index == device.index) fields.push_back({"device_name", info.name});
    }
  }
  fields.push_back({"threads", cpu::ThreadCount()});
  return fields;
}

JsonValue PeakDeviceBytes(Device device) {
  if (device.type != DeviceType::kCuda) return {};
  const int64_t bytes = cuda::GetModule().Use(device.index).most_in_use;
  cuda::GetModule().ReleaseCached(device.index);
  return bytes;
}

int64_t PeakBytes(Device device) {
  if (device.type == DeviceType::kCuda) return *PeakDeviceBytes(device).AsInt();
  const int64_t bytes = MostHostBytes();
  ReleaseCachedHostMemory();
  return bytes;
}

ByteCorpus RandomText(int64_t bytes) {
  Random random(2);
  std::string text;
  for (int64_t i = 0; i < bytes; ++i) text += static_cast<char>(random.NextBelow(256));
  const int file = memfd_create("text", MFD_CLOEXEC);
  const bool written =
      file >= 0 && write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (!written) throw Error(ErrorCode::kIo, "a file in memory cannot be written");
  const std::filesystem::path path = fmt::format("/proc/self/fd/{}", file);
  ByteCorpus corpus = ByteCorpus::Open(std::span(&path, 1));
  close(file);
  return corpus;
}

MatrixFlops MatrixFlopsOfARow(const BlockLanguageModel& model) {
  const ModelConfig& config = model.config();
  const ParameterNames names = ParameterNames::Of(config.architecture);
  MatrixFlops flops;
  flops.head = 2.0 * static_cast<double>(config.vocab_size * config.d_model);
  for (const Parameter& p : model.parameters()) {
    // A_log has two dimensions as well, and multiplies no row.
    if (p.value.rank() != 2 || p.full_precision) continue;
    if (p.name == names.embedding || p.name == names.head) continue;
    flops.blocks += 2.0 * static_cast<double>(p.value.elements());
  }
  return flops;
}

double SecondsOf(const std::function<void()>& work, Device device) {
  Synchronize(device);
  const auto begin = std::chrono::steady_clock::now();
  work();
  Synchronize(device);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

void PrintFields(const std::vector<JsonValue::Member>& fields, bool json) {
  if (json) {
    WriteStandardOutput(JsonValue(fields).ToText(2) + "\n");
    return;
  }
  size_t width = 0;
  for (const JsonValue::Member& field : fields) width = std::max(width, field.key.size());
  std::string text;
  for (const JsonValue::Member& field : fields) {
    text += fmt::format("{:<{}}  {}\n", field.key, width, CellText(field.value));
  }
  WriteStandardOutput(text);
}

void PrintTable(const BenchTable& table, bool json) {
  if (json) {
    JsonValue::Array rows;
    for (const std::vector<JsonValue>& row : table.rows) {
      JsonValue::Object object;
      for (size_t i = 0; i < row.size(); ++i) object.push_back({table.columns[i], row[i]});
      rows.emplace_back(std::move(object));
    }
    WriteStandardOutput(JsonValue(std::move(rows)).ToText(2) + "\n");
    return;
  }
  std::vector<std::vector<std::string>> cells = {table.columns};
  for (const std::vector<JsonValue>& row : table.rows) {
    std::vector<std::string>& line = cells.emplace_back();
    for (const JsonValue& value : row) line.push_back(value.is_null() ? "" : CellText(value));
  }
  std::string text;
  for (const std::vector<std::string>& line : cells) {
    for (size_t i = 0; i < line.size(); ++i) {
      size_t width = 0;
      for (const auto& other : cells) width = std::max(width, other[i].size());
      // Words to the left, numbers to the right.
      const bool words = !table.rows.empty() && table.rows.front()[i].AsString() != nullptr;
      text += words ? fmt::format("{:<{}}", line[i], width) : fmt::format("{:>{}}", line[i], width);
      text += i + 1 < line.size() ? "  " : "\n";
    }
  }
  WriteStandardOutput(text);
}

void AddBenchCommand(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Measure speed, beside what the machine can do");
  bench->require_subcommand(1);
  AddBenchRoofs(*bench);
  AddBenchScan(*bench);
  AddBenchOps(*bench);
  AddBenchContext(*bench);
  AddBenchGenerate(*bench);
  AddBenchLength(*bench);
  AddBenchTensors(*bench);
  AddBenchTokenize(*bench);
  AddBenchTrainStep(*bench);
}

}  // namespace adder
