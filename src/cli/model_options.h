// The options of every command that runs a model, and the model they name.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "adder/models/block_language_model.h"

namespace adder {

struct ModelOptions {
  std::string directory;
  std::string dtype = "f32";
  bool tf32 = false;
  std::string device = "auto";

  // --model DIR (required), --dtype, --tf32 and --device.
  void AddTo(CLI::App& command);
  std::unique_ptr<BlockLanguageModel> Load() const;
};

// --dtype of what a model that is not trained computes in, and --tf32.
void AddComputeOptions(CLI::App& command, std::string& dtype, bool& tf32);
// --tf32 alone, and what it asks for: throws where the device cannot, or computes in another dtype.
void AddTf32Option(CLI::App& command, bool& tf32);
void UseTf32(bool tf32, DType dtype, Device device);
// --device alone, and the device of that name; UsageError where no device is called so.
void AddDeviceOption(CLI::App& command, std::string& device);
Device ChosenDevice(const std::string& name);
// What --size names; UsageError where no size is called so.
ModelConfig PublishedConfig(const std::string& size);
// --model alone, for commands that do not choose how to compute.
void AddModelDirectory(CLI::App& command, std::string& directory);

}  // namespace adder
