// Architecture, dimensions and initialisation of a language model, in the names of the papers.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

namespace adder {

enum class Architecture {
  kMamba,        // arXiv 2312.00752
  kFalconMamba,  // Mamba with RMS-normalised dt, B and C (arXiv 2410.05355)
  kMamba2,       // arXiv 2405.21060
  kGptNeoX,      // Transformer: layer norm, attention and MLP side by side (arXiv 2204.06745)
  kLlama,        // Transformer: RMS norm, rotary positions, SwiGLU (arXiv 2302.13971)
};

// "mamba", "falcon_mamba", …: Hugging Face's model_type.
std::string_view ArchitectureName(Architecture architecture);

// Causal self-attention with rotary positions.
struct AttentionConfig {
  int64_t n_head = 0;
  int64_t n_kv_head = 0;   // 0: n_head; keys and values of a head serve n_head / n_kv_head queries
  int64_t d_head = 0;      // 0: d_model / n_head
  int64_t rotary_dim = 0;  // channels of a head that are rotated; 0: none
  double rope_theta = 10000;
  bool rotary_interleaved = false;  // pairs are neighbours instead of halves
  bool use_qkv_bias = false;
  bool use_out_bias = false;
  int64_t d_conv = 0;  // width of a convolution over queries, keys and values; 0: none
};

struct ModelConfig {
  // No dimension is larger: products of any two, times the layers, then fit 63 bits.
  static constexpr int64_t kLargestDimension = int64_t{1} << 20;
  static constexpr int64_t kLargestVocabulary = (int64_t{1} << 31) - 1;  // tokens are i32
  static constexpr int64_t kMostLayers = int64_t{1} << 16;

  Architecture architecture = Architecture::kMamba;
  int64_t vocab_size = 256;
  int64_t d_model = 768;
  int64_t n_layer = 24;
  bool tie_word_embeddings = true;
  double norm_eps = 1e-5;
  bool rms_norm = true;  // false: layer norm with a bias

  // Mamba, Falcon-Mamba and Mamba-2.
  int64_t d_state = 16;
  int64_t d_conv = 4;
  int64_t expand = 2;
  int64_t d_inner = 0;    // 0: expand · d_model
  int64_t dt_rank = 0;    // 0: ceil(d_model / 16); not Mamba-2
  bool use_bias = false;  // biases of in_proj and out_proj
  bool use_conv_bias = true;
  double mixer_norm_eps = 1e-6;  // Falcon-Mamba: of the norms of dt, B and C
  // Mamba-2.
  int64_t head_dim = 64;
  int64_t n_groups = 1;
  int64_t norm_groups = 0;  // groups that the gated norm normalises by themselves; 0: n_groups
  double dt_limit_min = 0;  // the step after softplus is clamped to these
  double dt_limit_max = std::numeric_limits<double>::infinity();

  // Transformers; and the layers of a Mamba or Mamba-2 hybrid that are attention, ascending.
  AttentionConfig attention = {};
  std::vector<int64_t> attention_layers = {};
  // Of the MLP after each mixer; 0: none. Gated by SiLU, but for GPT-NeoX, whose is not and has
  // biases.
  int64_t d_intermediate = 0;
  bool use_parallel_residual = true;  // GPT-NeoX: attention and MLP read the same rows

  // Initialisation (references in docs/training.md).
  double dt_min = 1e-3;
  double dt_max = 1e-1;
  double dt_init_floor = 1e-4;
  double initializer_range = 0.02;  // standard deviation of the embedding
  bool rescale_prenorm_residual = true;
  // Tokens with a meaning to generation; -1: none.
  int64_t bos_token_id = -1;
  int64_t eos_token_id = -1;
  std::vector<int64_t> more_eos_token_ids = {};  // that end a text too, as a chat model's turn

  // A published size by name, resolved: 130m, 370m, 790m, 1.4b, 2.8b are Mamba's, mamba2-130m,
  // mamba2-370m, mamba2-780m, mamba2-1.3b, mamba2-2.7b Mamba-2's, with the GPT-NeoX vocabulary
  // padded to 50280 and 50288; pythia-70m to pythia-2.8b GPT-NeoX's. Throws kInvalidArgument for
  // another name.
  static ModelConfig Published(std::string_view name);

  bool is_transformer() const {
    return architecture == Architecture::kGptNeoX || architecture == Architecture::kLlama;
  }
  bool IsAttention(int64_t layer) const;
  // All tokens that end a text.
  std::vector<int64_t> EndTokens() const;
  // Mamba-2's heads.
  int64_t n_ssm_head() const { return d_inner / head_dim; }

  // Fills what is 0 above with what it stands for. Throws kInvalidArgument naming the field that
  // has no valid value (dimensions are bounded so that no product of them overflows 63 bits).
  // Everything below expects a resolved config.
  void Resolve();
};

}  // namespace adder
