// config.json as the mamba_ssm package writes it (state-spaces/mamba-130m, mamba2-2.7b,
// mamba2attn-2.7b, transformerpp-2.7b). Fields in docs/file-formats.md.
#pragma once

#include <string>

#include "adder/formats/json.h"
#include "adder/models/model_config.h"

namespace adder {

// Whether a config.json is of this kind: it says d_model and n_layer, and no model_type.
bool IsStateSpacesConfig(const JsonObject& json);

// The resolved config; the vocabulary is padded as the embedding is. Throws kCorrupt (naming file,
// field and what was expected), kUnsupported (a variant that Adder does not compute).
ModelConfig ParseStateSpacesConfig(const JsonObject& json);

// The text of config.json. Throws kUnsupported for an architecture that the package has not.
std::string StateSpacesConfigJson(const ModelConfig& config);

}  // namespace adder
