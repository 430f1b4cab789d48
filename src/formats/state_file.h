// A saved State: versioned, little-endian, checksummed (XXH64 over everything before the checksum),
// bound to the model's fingerprint. Layout in docs/file-formats.md.
#pragma once

#include <filesystem>

#include "adder/core/state.h"

namespace adder {

// Written atomically. Throws kIo.
void WriteState(const std::filesystem::path& path, const State& state);
// Throws kNotFound, kIo; kCorrupt for anything that is not a whole, unaltered state file;
// kUnsupported for a newer version.
State ReadState(const std::filesystem::path& path);
// ReadState, and throws kInvalidArgument unless the state has the fingerprint, entry names, dtypes
// and shapes of `like` (a model's InitialState for any number of sequences).
State ReadStateFor(const std::filesystem::path& path, const State& like);

}  // namespace adder
