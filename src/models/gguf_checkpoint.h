// Language models in GGUF files, under llama.cpp's names: files of its architectures mamba (Falcon-
// Mamba too), mamba2, gptneox and llama open here, and what is written here opens there.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adder/core/dtype.h"
#include "adder/formats/gguf.h"
#include "adder/models/block_language_model.h"

namespace adder {

// The config in a file's metadata, resolved. Throws kCorrupt or kNotFound naming file and key,
// kUnsupported for another architecture or variant.
ModelConfig ParseGgufConfig(const GgufFile& file);

// Weights stay as they lie in the mapped file, quantized ones too; A, whose logarithm is the
// parameter, and Llama's queries and keys, whose rows have another order there, are copied. Throws
// as ParseGgufConfig, naming tensors that are missing, unexpected or of the wrong shape.
std::unique_ptr<BlockLanguageModel> LoadGguf(const GgufFile& file, DType compute_dtype,
                                             Device device = {});

// What a file of the model holds, for WriteGguf: metadata (to which the tokenizer's is added) and
// tensors. weights: f32, bf16, f16, or a quantized dtype (see GgufDType). progress, where given, is
// called with the share that is done. Throws kUnsupported for a model that llama.cpp has no
// architecture for.
struct GgufContent {
  std::vector<std::pair<std::string, GgufValue>> metadata;
  std::vector<std::pair<std::string, Tensor>> tensors;
};
GgufContent MakeGguf(const BlockLanguageModel& model, DType weights,
                     const std::function<void(double share)>& progress = {});

// The dtype that a parameter gets in a file of `weights`: f32 where it is full_precision; among
// 4-bit weights the embedding and the head get q6_k, as errors there reach every token; q8_0, or
// else f16, where a row is no whole number of blocks.
DType GgufDType(const Parameter& parameter, const Shape& shape, DType weights);

// Gives the parameters the values that they would have read back from a file of `weights`.
void QuantizeModel(BlockLanguageModel& model, DType weights);

}  // namespace adder
