// Dimensions and initialisation of a Mamba (S6) language model, in the names of the paper.
#pragma once

#include <cstdint>
#include <string_view>

namespace adder {

struct MambaConfig {
  // No dimension is larger: products of any two, times the layers, then fit 63 bits.
  static constexpr int64_t kLargestDimension = int64_t{1} << 20;
  static constexpr int64_t kLargestVocabulary = (int64_t{1} << 31) - 1;  // tokens are i32
  static constexpr int64_t kMostLayers = int64_t{1} << 16;

  int64_t vocab_size = 256;
  int64_t d_model = 768;
  int64_t n_layer = 24;
  int64_t d_state = 16;
  int64_t d_conv = 4;
  int64_t expand = 2;
  int64_t d_inner = 0;    // 0: expand · d_model
  int64_t dt_rank = 0;    // 0: ceil(d_model / 16)
  bool use_bias = false;  // biases of in_proj and out_proj
  bool use_conv_bias = true;
  bool tie_word_embeddings = true;
  double norm_eps = 1e-5;
  // Initialisation (references in docs/training.md).
  double dt_min = 1e-3;
  double dt_max = 1e-1;
  double dt_init_floor = 1e-4;
  double initializer_range = 0.02;  // standard deviation of the embedding
  bool rescale_prenorm_residual = true;
  // Tokens with a meaning to generation; -1: none.
  int64_t bos_token_id = -1;
  int64_t eos_token_id = -1;

  // A published size by name: 130m, 370m, 790m, 1.4b, 2.8b, with the GPT-NeoX vocabulary padded to
  // 50280; resolved. Throws kInvalidArgument for another name.
  static MambaConfig Published(std::string_view name);

  // Fills d_inner and dt_rank where they are 0. Throws kInvalidArgument naming the field that has
  // no valid value (dimensions are bounded so that no product of them overflows 63 bits).
  // Everything below expects a resolved config.
  void Resolve();
};

}  // namespace adder
