// The tokenizer's part of a GGUF file's metadata.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "adder/formats/gguf.h"
#include "adder/text/vocabulary.h"

namespace adder {

// The keys tokenizer.ggml.*. Throws kNotFound for a file without a vocabulary, kCorrupt naming file
// and key.
Vocabulary ReadVocabulary(const GgufFile& file);

std::vector<std::pair<std::string, GgufValue>> VocabularyMetadata(const Vocabulary& vocabulary);
// Of a file without a tokenizer: llama.cpp opens none that says nothing of it.
std::vector<std::pair<std::string, GgufValue>> NoVocabularyMetadata();

}  // namespace adder
