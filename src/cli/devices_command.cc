// `adder devices`: what this machine has to compute on.
#include <fmt/format.h>

#include <string>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/backend/cpu/parallel.h"
#include "adder/backend/devices.h"
#include "adder/cli/commands.h"
#include "adder/cli/numbers.h"
#include "adder/cli/standard_output.h"
#include "adder/core/error.h"

namespace adder {
namespace {

// What of a device is free, or why it cannot be used.
std::string Standing(const cuda::DeviceInfo& device) {
  if (!device.unusable.empty()) return "not usable: " + device.unusable;
  try {
    return HumanBytes(cuda::GetModule().FreeBytes(device.index)) + " free";
  } catch (const Error& error) {
    return std::string("not usable now: ") + error.what();
  }
}

void Run() {
  std::string text =
      fmt::format("cpu     {}, {} thread{}\n", cpu::InstructionSetName(cpu::ActiveInstructionSet()),
                  cpu::ThreadCount(), cpu::ThreadCount() == 1 ? "" : "s");
  const FoundCudaDevices found = FindCudaDevices();
  for (const cuda::DeviceInfo& device : found.devices) {
    text += fmt::format("cuda:{}  {}, compute capability {}.{}, {} multiprocessors, {} ({})\n",
                        device.index, device.name, device.major, device.minor,
                        device.multiprocessors, HumanBytes(device.memory_bytes), Standing(device));
  }
  if (found.devices.empty()) text += fmt::format("no cuda device: {}\n", found.reason);
  WriteStandardOutput(text);
}

}  // namespace

void AddDevicesCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand("devices", "List what there is to compute on");
  command->callback([] { Run(); });
}

}  // namespace adder
