// config.json as Hugging Face writes it, for each architecture. Fields in docs/file-formats.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "adder/core/dtype.h"
#include "adder/formats/json.h"
#include "adder/models/model_config.h"

namespace adder {

// "MambaForCausalLM", …
std::string_view HuggingFaceClass(Architecture architecture);

// The resolved config. Absent fields have the defaults that they have there. Throws kCorrupt
// (naming file, field and what was expected), kUnsupported (another architecture, or a variant that
// Adder does not compute).
ModelConfig ParseHuggingFaceConfig(const JsonObject& json);

// The text of config.json, with the weights' dtype. Throws kUnsupported for a config that no class
// there has (a hybrid).
std::string HuggingFaceConfigJson(const ModelConfig& config, DType dtype);

// Token ids as config.json has them: null for none, and a list where there are several.
JsonValue TokenIdJson(int64_t id);
JsonValue EndTokensJson(const ModelConfig& config);

// JSON as Python writes it may hold the words NaN and Infinity, which JSON has not: the same text
// with each of those outside of strings replaced by {"__float__": "Infinity"}, as newer versions of
// Hugging Face's library write it.
std::string ReplacePythonNumbers(std::string_view text);

}  // namespace adder
