// A session's own fields travel as entries of its state, so that the state file's format, checksum
// and checks serve them too.
#include "adder/infer/session.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <string_view>
#include <utility>

#include "adder/core/error.h"
#include "adder/formats/state_file.h"
#include "adder/infer/stop_matcher.h"
#include "adder/ops/sample/sample.h"

namespace adder {
namespace {

constexpr std::string_view kPrefix = "session.";
constexpr const char* kPending = "session.pending";
constexpr const char* kRecent = "session.recent";
constexpr const char* kUnshown = "session.unshown";
constexpr const char* kRandom = "session.random";

// What a session can hold back: the beginning of a stop string and that of a character.
constexpr int64_t kMaxUnshown = static_cast<int64_t>(kMaxStopBytes) + 4;

bool IsSessionEntry(const State::Entry& entry) { return entry.name.starts_with(kPrefix); }

template <class T>
void AddEntry(std::vector<State::Entry>& entries, const char* name, std::span<const T> values) {
  if (values.empty()) return;
  entries.push_back({name, Tensor::From<T>({1, static_cast<int64_t>(values.size())}, values)});
}

// The entry's values; throws kCorrupt unless it is [1, 1..most] of T.
template <class T>
std::span<const T> Values(const State::Entry& entry, int64_t most, const std::string& source) {
  const Tensor& value = entry.value;
  if (value.dtype() != kDTypeOf<T> || value.rank() != 2 || value.dim(0) != 1 || value.dim(1) < 1 ||
      value.dim(1) > most || !value.contiguous()) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: entry {} is {}, expected {} [1, 1 to {}]", source, entry.name,
                            value.ToString(), DTypeName(kDTypeOf<T>), most));
  }
  return {value.data<T>(), static_cast<size_t>(value.dim(1))};
}

std::vector<int32_t> Tokens(const State::Entry& entry, int64_t most, int64_t vocab_size,
                            const std::string& source) {
  const auto tokens = Values<int32_t>(entry, most, source);
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocab_size) {
      throw Error(ErrorCode::kCorrupt,
                  fmt::format("{}: entry {} has token {}, the model's vocabulary has {}", source,
                              entry.name, token, vocab_size));
    }
  }
  return {tokens.begin(), tokens.end()};
}

}  // namespace

Session Session::Begin(const LanguageModel& model, uint64_t seed, uint64_t stream) {
  Session session;
  session.state = model.InitialState(1);
  session.seed = seed;
  session.stream = stream;
  return session;
}

void Session::Append(std::span<const int32_t> tokens) {
  pending.insert(pending.end(), tokens.begin(), tokens.end());
  for (const int32_t token : tokens) PushRecent(recent, token);
}

void Session::Reseed(uint64_t new_seed, uint64_t new_stream) {
  seed = new_seed;
  stream = new_stream;
  random_offset = 0;
}

void PushRecent(std::vector<int32_t>& recent, int32_t token) {
  if (recent.size() == static_cast<size_t>(kMaxRepetitionWindow)) recent.erase(recent.begin());
  recent.push_back(token);
}

void WriteSession(const std::filesystem::path& path, const Session& session) {
  const State& state = session.state;
  std::vector<State::Entry> entries(state.entries().begin(), state.entries().end());
  AddEntry<int32_t>(entries, kPending, session.pending);
  AddEntry<int32_t>(entries, kRecent, session.recent);
  AddEntry<uint8_t>(
      entries, kUnshown,
      {reinterpret_cast<const uint8_t*>(session.unshown.data()), session.unshown.size()});
  const int64_t random[] = {std::bit_cast<int64_t>(session.seed),
                            std::bit_cast<int64_t>(session.stream),
                            std::bit_cast<int64_t>(session.random_offset)};
  AddEntry<int64_t>(entries, kRandom, random);
  const std::span<const int64_t> positions = state.positions();
  WriteState(path,
             State(state.fingerprint(), {positions.begin(), positions.end()}, std::move(entries)));
}

Session ReadSession(const std::filesystem::path& path, const LanguageModel& model) {
  return ParseSession(ReadState(path), model.InitialState(1), model.vocab_size(), path.string());
}

Session ParseSession(const State& file, const State& initial, int64_t vocab_size,
                     const std::string& source) {
  std::vector<State::Entry> memory;
  std::vector<State::Entry> own;
  for (const State::Entry& entry : file.entries()) {
    (IsSessionEntry(entry) ? own : memory).push_back(entry);
  }
  Session session;
  session.state =
      StateLike(State(file.fingerprint(), {file.positions().begin(), file.positions().end()},
                      std::move(memory)),
                initial, source);
  if (file.sequences() != 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: a state of {} sequences, expected 1", source, file.sequences()));
  }
  for (const State::Entry& entry : own) {
    if (entry.name == kPending) {
      session.pending = Tokens(entry, INT32_MAX, vocab_size, source);
    } else if (entry.name == kRecent) {
      session.recent = Tokens(entry, kMaxRepetitionWindow, vocab_size, source);
    } else if (entry.name == kUnshown) {
      const auto bytes = Values<uint8_t>(entry, kMaxUnshown, source);
      session.unshown.assign(bytes.begin(), bytes.end());
    } else if (entry.name == kRandom) {
      const auto random = Values<int64_t>(entry, 3, source);
      if (random.size() != 3) {
        throw Error(ErrorCode::kCorrupt, fmt::format("{}: entry {} has {} numbers, expected 3",
                                                     source, entry.name, random.size()));
      }
      session.seed = std::bit_cast<uint64_t>(random[0]);
      session.stream = std::bit_cast<uint64_t>(random[1]);
      session.random_offset = std::bit_cast<uint64_t>(random[2]);
    } else {
      throw Error(ErrorCode::kCorrupt, fmt::format("{}: unknown entry {}", source, entry.name));
    }
  }
  return session;
}

}  // namespace adder
