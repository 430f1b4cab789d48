// A conversation with a model as a value: everything that is needed to go on exactly where it
// stands. Copy it to fork the conversation, keep an older copy to take something back, write it to
// a file to continue tomorrow.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "adder/core/random.h"
#include "adder/core/state.h"
#include "adder/models/language_model.h"

namespace adder {

struct Session {
  // What the model has read: one sequence.
  State state;
  // Tokens that belong to the conversation but were not read yet, oldest first. After generation
  // this is the token generated last: the model reads a token when the next one is asked for.
  std::vector<int32_t> pending;
  // The last tokens, pending ones included, oldest first; at most kMaxRepetitionWindow.
  std::vector<int32_t> recent;
  // Bytes that were generated but not given out yet, because they may be the beginning of a stop
  // string or of a UTF-8 character.
  std::string unshown;
  // Where the sampler's random stream stands.
  uint64_t seed = 0;
  uint64_t stream = 0;
  uint64_t random_offset = 0;

  // A conversation in which nothing has been said.
  static Session Begin(const LanguageModel& model, uint64_t seed, uint64_t stream = 0);

  // Adds tokens for the model to read.
  void Append(std::span<const int32_t> tokens);
  // Moves on to another random stream, from its beginning.
  void Reseed(uint64_t new_seed, uint64_t new_stream = 0);
};

// Remembers `token` in a session's `recent`.
void PushRecent(std::vector<int32_t>& recent, int32_t token);

// Saved as a state file whose state has further entries beside the model's: session.pending and
// session.recent i32 [1, n], session.unshown u8 [1, n], session.random i64 [1, 3] (seed, stream,
// offset; the 64 bits as they are). An entry without elements is left out. Throws kIo.
void WriteSession(const std::filesystem::path& path, const Session& session);
// Reads a session, or a plain state of one sequence as a session in which only `state` is set.
// Throws what ReadStateFor does for another model's state, kInvalidArgument for a state of several
// sequences, kCorrupt for session entries that no session has.
Session ReadSession(const std::filesystem::path& path, const LanguageModel& model);
// The same from the state that a file holds. `initial` is the model's state of one sequence,
// `source` what messages call the file.
Session ParseSession(const State& file, const State& initial, int64_t vocab_size,
                     const std::string& source);

}  // namespace adder
