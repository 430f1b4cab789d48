// Options that name a model.
#include "adder/cli/model_options.h"

#include "adder/backend/devices.h"
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
  command.add_option("--dtype", dtype, "What to compute in: f32 or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->type_name("TYPE")
      ->capture_default_str();
  AddDeviceOption(command, device);
}

void AddDeviceOption(CLI::App& command, std::string& device) {
  command
      .add_option("--device", device,
                  "Where to compute: cpu, cuda, cuda:N, or auto, a CUDA device where there is one")
      ->type_name("NAME")
      ->capture_default_str();
}

std::unique_ptr<BlockLanguageModel> ModelOptions::Load() const {
  return LoadModel(directory, ParseDType(dtype), ParseDevice(device));
}

}  // namespace adder
