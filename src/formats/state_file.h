// A saved State: versioned, little-endian, checksummed (XXH64 over everything before the checksum),
// bound to the model's fingerprint. Layout in docs/file-formats.md.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

#include "adder/core/state.h"

namespace adder {

// Written atomically, from any device. Throws kIo.
void WriteState(const std::filesystem::path& path, const State& state);
// Throws kNotFound, kIo; kCorrupt for anything that is not a whole, unaltered state file;
// kUnsupported for a newer version.
State ReadState(const std::filesystem::path& path);
// ReadState, and throws kInvalidArgument unless the state has the fingerprint, entry names, dtypes
// and shapes of `like` (a model's InitialState for any number of sequences).
State ReadStateFor(const std::filesystem::path& path, const State& like);
// ReadState of a file in memory; `source` is what messages call it.
State ParseState(std::span<const std::byte> file, std::string_view source);
// What a file gave, as a state of the model that `like` belongs to; throws as ReadStateFor.
State StateLike(const State& state, const State& like, std::string_view source);

}  // namespace adder
