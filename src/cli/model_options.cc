// Options that name a model.
#include "adder/cli/model_options.h"

#include <fmt/format.h>

#include "adder/backend/devices.h"
#include "adder/cli/commands.h"
#include "adder/core/dtype.h"
#include "adder/models/checkpoint.h"

namespace adder {

void AddModelDirectory(CLI::App& command, std::string& directory) {
  command
      .add_option("--model", directory,
                  "Model directory (config.json, model.safetensors, …) or GGUF file")
      ->required()
      ->type_name("DIR");
}

void ModelOptions::AddTo(CLI::App& command) {
  AddModelDirectory(command, directory);
  AddComputeOptions(command, dtype, tf32);
  AddDeviceOption(command, device);
}

void AddComputeOptions(CLI::App& command, std::string& dtype, bool& tf32) {
  command.add_option("--dtype", dtype, "What to compute in: f32, bf16 or f16")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}))
      ->type_name("TYPE")
      ->capture_default_str();
  AddTf32Option(command, tf32);
}

void AddTf32Option(CLI::App& command, bool& tf32) {
  command.add_flag(
      "--tf32", tf32,
      "On a CUDA device, multiply f32 matrices in TF32: faster, 3 digits instead of 7");
}

void UseTf32(bool tf32, DType dtype, Device device) {
  if (!tf32) return;
  if (dtype != DType::kF32) {
    throw UsageError(
        fmt::format("--tf32 is a way to multiply f32, but --dtype is {}", DTypeName(dtype)));
  }
  AllowTf32(device);
}

void AddDeviceOption(CLI::App& command, std::string& device) {
  command
      .add_option("--device", device,
                  "Where to compute: cpu, cuda, cuda:N, or auto, a CUDA device where there is one")
      ->type_name("NAME")
      ->capture_default_str();
}

Device ChosenDevice(const std::string& name) {
  return FromCommandLine([&] { return ParseDevice(name); });
}

ModelConfig PublishedConfig(const std::string& size) {
  return FromCommandLine([&] { return ModelConfig::Published(size); });
}

std::unique_ptr<BlockLanguageModel> ModelOptions::Load() const {
  const Device where = ChosenDevice(device);
  UseTf32(tf32, ParseDType(dtype), where);
  return LoadModel(directory, ParseDType(dtype), where);
}

}  // namespace adder
