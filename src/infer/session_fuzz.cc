// Fuzzes saved conversations, behind a right checksum: what is accepted is a conversation that the
// model can go on with.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>

#include "adder/core/error.h"
#include "adder/formats/state_file.h"
#include "adder/infer/session.h"
#include "adder/ops/sample/sample.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int64_t kVocabulary = 100;
  // A memory of fixed size, and one that grows.
  static const adder::State models[] = {
      adder::State(7, {0}, {{"memory", adder::Tensor::Zeros({1, 2}, adder::DType::kF32), false}}),
      adder::State(7, {0}, {{"memory", adder::Tensor::Zeros({1, 0, 2}, adder::DType::kF32), true}}),
  };
  if (size < 8) return 0;
  std::string sealed(reinterpret_cast<const char*>(data), size);
  const uint64_t checksum = XXH64(data, size - 8, 0);
  std::memcpy(sealed.data() + size - 8, &checksum, 8);
  for (const adder::State& initial : models) {
    try {
      const adder::State file = adder::ParseState(std::as_bytes(std::span(sealed)), "fuzz");
      const adder::Session session = adder::ParseSession(file, initial, kVocabulary, "fuzz");
      for (const auto& tokens : {session.pending, session.recent}) {
        for (const int32_t token : tokens) {
          if (token < 0 || token >= kVocabulary) std::abort();
        }
      }
      if (session.recent.size() > static_cast<size_t>(adder::kMaxRepetitionWindow)) std::abort();
      if (session.state.sequences() != 1 || session.state.entries().size() != 1) std::abort();
      const adder::State::Entry& memory = session.state.entries()[0];
      if (memory.grows && session.state.positions()[0] > memory.value.dim(1)) std::abort();
    } catch (const adder::Error&) {
    }
  }
  return 0;
}
