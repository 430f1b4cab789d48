// Fuzzes files of tokens, as they are and behind a right checksum: of what is accepted every token
// can be read, or is refused.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "adder/data/token_corpus.h"

namespace {

void Parse(std::span<const std::byte> file) {
  try {
    const adder::TokenCorpus corpus = adder::TokenCorpus::Parse(file, "fuzz");
    if (static_cast<size_t>(corpus.tokens()) > file.size()) std::abort();
    std::vector<int32_t> tokens(static_cast<size_t>(corpus.tokens()));
    corpus.Read(0, tokens);
    for (const int32_t token : tokens) {
      if (token < 0 || token >= corpus.vocab_size()) std::abort();
    }
  } catch (const adder::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Parse(std::as_bytes(std::span(data, size)));
  // The checksum is of the header of 32 bytes, the documents' beginnings and the footer's 24 bytes
  // before it; see docs/file-formats.md.
  constexpr size_t kHeader = 32;
  constexpr size_t kFooter = 32;
  if (size < kHeader + kFooter) return 0;
  uint64_t documents = 0;
  std::memcpy(&documents, data + size - kFooter, sizeof(documents));
  if (documents >= (size - kHeader - kFooter) / sizeof(int64_t)) return 0;
  const size_t begins = (documents + 1) * sizeof(int64_t);
  uint64_t checksum = XXH64(data, kHeader, 0);
  checksum = XXH64(data + size - kFooter - begins, begins, checksum);
  checksum = XXH64(data + size - kFooter, kFooter - sizeof(checksum), checksum);
  std::string sealed(reinterpret_cast<const char*>(data), size);
  std::memcpy(sealed.data() + size - sizeof(checksum), &checksum, sizeof(checksum));
  Parse(std::as_bytes(std::span(sealed)));
  return 0;
}
