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
  std::string device = "auto";

  // --model DIR (required), --dtype and --device.
  void AddTo(CLI::App& command);
  std::unique_ptr<BlockLanguageModel> Load() const;
};

// --device alone.
void AddDeviceOption(CLI::App& command, std::string& device);
// --model alone, for commands that do not choose how to compute.
void AddModelDirectory(CLI::App& command, std::string& directory);

}  // namespace adder
