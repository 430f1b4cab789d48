// Fuzzes tokenizer.json: with what is accepted, any text becomes tokens of the vocabulary, in parts
// as in whole, and where the tokenizer is over bytes and changes nothing the tokens give it back.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "adder/text/tokenizer.h"
#include "adder/text/vocabulary.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const std::unique_ptr<adder::Tokenizer> tokenizer = adder::Tokenizer::Parse(text, "fuzz");
    const std::vector<int32_t> tokens = tokenizer->Encode(text);
    std::string back;
    for (const int32_t token : tokens) back += tokenizer->Bytes(token);
    tokenizer->Decode(tokens);
    std::vector<int32_t> parts;
    tokenizer->EncodeParts(text, 64, [&](std::span<const int32_t> some, size_t) {
      parts.insert(parts.end(), some.begin(), some.end());
    });
    if (parts != tokens) std::abort();
    const bool bytes = dynamic_cast<const adder::ByteTokenizer*>(tokenizer.get()) != nullptr;
    if (bytes && back != text) std::abort();
    const adder::Vocabulary vocabulary = tokenizer->ToVocabulary();
    adder::Tokenizer::FromVocabulary(vocabulary, "fuzz")->Encode(text);
  } catch (const adder::Error&) {
  }
  return 0;
}
