// A tokenizer as plain lists, as GGUF files hold it, and as training makes it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace adder {

// GGUF's numbers for what a token is.
enum class TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,      // stands for what cannot be spelled
  kControl = 3,      // special: stands for no text
  kUserDefined = 4,  // found in the text before it is cut into words
  kUnused = 5,       // an id without a token
  kByte = 6,         // <0xHH>
};

struct Vocabulary {
  // tokenizer.ggml.model: "gpt2" is byte-level BPE, "llama" is SentencePiece's.
  std::string model;
  // tokenizer.ggml.pre, of byte-level BPE: how text is cut into words. "gpt-2"; "gpt-neox", "mpt",
  // "olmo" and "mamba", which bring text into NFC first and then are the same; "falcon";
  // "llama-bpe"; "qwen2". Empty is "gpt-2".
  std::string pre;
  std::vector<std::string> tokens;  // by id
  std::vector<std::string> merges;  // "left right", in the order in which they were learned
  std::vector<float> scores;        // of "llama" without merges: high ones merge first
  std::vector<TokenType> types;     // empty: all are normal
  // Ids; -1: none.
  int32_t bos = -1;
  int32_t eos = -1;
  int32_t eot = -1;  // another that ends what is generated: of a turn
  int32_t unknown = -1;
  int32_t padding = -1;
  // Put around a text for the model to read.
  bool add_bos = false;
  bool add_eos = false;
  // "llama": a space is put before a text.
  bool add_space_prefix = true;
};

// The text of a tokenizer.json that Adder and Hugging Face's tokenizers read. Throws kCorrupt for
// lists that contradict each other, kUnsupported for a model or a way of cutting that is not known;
// `source` begins the message.
std::string TokenizerJson(const Vocabulary& vocabulary, std::string_view source);

// The text of the tokenizer_config.json beside it, by which transformers knows the special tokens.
std::string TokenizerConfigJson(const Vocabulary& vocabulary);

}  // namespace adder
