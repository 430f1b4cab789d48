// The model's parameters, what is derived from them, and the forward over all blocks.
#include "adder/models/block_language_model.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/core/device_memory.h"
#include "adder/core/error.h"
#include "adder/core/storage.h"
#include "adder/models/attention_block.h"
#include "adder/models/mamba2_block.h"
#include "adder/models/mamba_block.h"
#include "adder/models/mlp_block.h"
#include "adder/ops/adamw/adamw.h"
#include "adder/ops/elementwise/elementwise.h"
#include "adder/ops/linear/linear.h"

namespace adder {
namespace {

// A = -exp(A_log) on the device, written over `old_A` where that is there.
Tensor DeriveA(const Tensor& A_log_any, const Tensor& old_A, Device device) {
  const Tensor converted = A_log_any.To(device).To(DType::kF32);
  const Tensor A_log = converted.contiguous() ? converted : converted.Clone();
  const Tensor A = old_A.defined() && old_A.device() == device
                       ? old_A
                       : Tensor::Empty(A_log.shape(), DType::kF32, device);
  NegativeExp(A_log, A);
  return A;
}

// Appends evenly spaced samples of the tensor's bits: all of a small tensor, a few cache
// lines of a large one, so that a mapped checkpoint is not read from end to end.
void AppendSamples(const Tensor& tensor, std::string* samples) {
  constexpr int64_t kPieces = 8;
  constexpr int64_t kPieceBytes = 64;
  const Tensor dense = tensor.contiguous() ? tensor : tensor.Clone();
  const auto append = [&](int64_t begin, int64_t count) {
    const char* const bytes = static_cast<const char*>(dense.raw()) + begin;
    if (dense.device().type == DeviceType::kCpu) {
      samples->append(bytes, static_cast<size_t>(count));
      return;
    }
    const size_t end = samples->size();
    samples->resize(end + static_cast<size_t>(count));
    DeviceMemoryOf(dense.device()).CopyToHost(samples->data() + end, bytes, count);
  };
  if (dense.bytes() <= kPieces * kPieceBytes) return append(0, dense.bytes());
  const int64_t last = dense.bytes() - kPieceBytes;
  for (int64_t i = 0; i < kPieces; ++i) append(last / (kPieces - 1) * i, kPieceBytes);
}

}  // namespace

ParameterNames ParameterNames::Of(Architecture architecture) {
  switch (architecture) {
    case Architecture::kGptNeoX:
      return {"gpt_neox.embed_in.weight", "gpt_neox.layers.", "gpt_neox.final_layer_norm",
              "embed_out.weight"};
    case Architecture::kLlama:
      return {"model.embed_tokens.weight", "model.layers.", "model.norm", "lm_head.weight"};
    default:
      return {"backbone.embeddings.weight", "backbone.layers.", "backbone.norm_f",
              "lm_head.weight"};
  }
}

BlockLanguageModel::BlockLanguageModel(ModelConfig config, DType compute_dtype)
    : config_((config.Resolve(), std::move(config))),
      compute_dtype_(compute_dtype),
      names_(ParameterNames::Of(config_.architecture)),
      list_(config_.n_layer) {
  if (compute_dtype != DType::kF32 && compute_dtype != DType::kBF16 &&
      compute_dtype != DType::kF16) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a model cannot compute in {}, expected f32, bf16 or f16",
                            DTypeName(compute_dtype)));
  }
  embedding_ = list_.Embedding(names_.embedding, config_.vocab_size, config_.d_model);
  for (int64_t layer = 0; layer < config_.n_layer; ++layer) AddBlocks(layer);
  norm_ = Norm::Make(list_, names_.norm, config_);
  head_ = config_.tie_word_embeddings
              ? embedding_
              : list_.Weight(names_.head, config_.vocab_size, config_.d_model);
}

void BlockLanguageModel::AddBlocks(int64_t layer) {
  const std::string prefix = names_.layers + std::to_string(layer);
  const auto add = [&]<class T>(std::type_identity<T>) {
    AddBlock(layer, std::make_unique<T>(list_, prefix, config_, compute_dtype_));
  };
  if (config_.architecture == Architecture::kGptNeoX) {
    add(std::type_identity<GptNeoXBlock>());
    return;
  }
  if (config_.IsAttention(layer)) {
    add(std::type_identity<AttentionBlock>());
  } else if (config_.architecture == Architecture::kMamba2) {
    add(std::type_identity<Mamba2Block>());
  } else {
    add(std::type_identity<MambaBlock>());
  }
  if (config_.d_intermediate > 0) add(std::type_identity<GatedMlpBlock>());
}

void BlockLanguageModel::AddBlock(int64_t layer, std::unique_ptr<Block> block) {
  const size_t begin = memory_.size();
  for (Block::MemoryPart& part : block->memory()) {
    part.name = fmt::format("layers.{}.{}", layer, part.name);
    memory_.push_back(std::move(part));
  }
  blocks_.push_back({std::move(block), begin, memory_.size() - begin});
}

DType BlockLanguageModel::DTypeOfCompute(const Parameter& p) const {
  // Weights that are only read are unpacked as they stream through a product (on other devices than
  // the CPU the quantized ones); what is trained, and f32 weights for a model in 16 bits, are worth
  // a copy.
  const bool unpacked = !p.full_precision && !p.grad.defined() &&
                        (device_.type == DeviceType::kCpu ? p.value.dtype() != DType::kF32
                                                          : IsQuantized(p.value.dtype()));
  if (unpacked) return p.value.dtype();
  return p.full_precision ? DType::kF32 : compute_dtype_;
}

bool BlockLanguageModel::HasCopyInPlace(const Parameter& p) const {
  return p.compute_is_copy && p.compute.dtype() == DTypeOfCompute(p) &&
         p.compute.device() == device_ && p.value.device() == device_;
}

void BlockLanguageModel::Derive(Parameter& p) const {
  if (p.name.ends_with("A_log")) {
    p.compute = DeriveA(p.value, p.compute, device_);
    return;
  }
  const DType wanted = DTypeOfCompute(p);
  if (p.value.dtype() == wanted && p.value.device() == device_) {
    p.compute = p.value;
    p.compute_is_copy = false;
  } else if (HasCopyInPlace(p)) {
    p.compute.CopyFrom(p.value);
  } else {
    p.compute = Tensor();  // its memory may be what the new one gets
    p.compute = p.value.To(device_).To(wanted);
    p.compute_is_copy = true;
  }
}

void BlockLanguageModel::MoveTo(Device device) {
  if (device == device_) return;
  if (device.type != DeviceType::kCpu) DeviceMemoryOf(device);  // throws where there is none
  device_ = device;
  for (Parameter& p : list_.parameters()) {
    const bool derived = p.compute.defined();
    p.compute = Tensor();
    p.compute_is_copy = false;
    if (p.grad.defined()) {
      p.value = p.value.To(device);
      p.grad = p.grad.To(device);
    }
    if (derived) Derive(p);
  }
  ReleaseCachedHostMemory();  // what was given up, where that was the host's
}

void BlockLanguageModel::ParametersChanged() {
  const std::span<Parameter> parameters = list_.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    if (!p.value.defined() || p.value.shape() != list_.shapes()[i]) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("parameter {} is {}, expected shape {}", p.name, p.value.ToString(),
                              list_.shapes()[i].ToString()));
    }
    if (p.full_precision && IsQuantized(p.value.dtype())) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("parameter {} is {}, expected f32, bf16 or f16", p.name, p.value.ToString()));
    }
  }
  if (device_.type == DeviceType::kCpu) {
    cpu::ParallelFor(static_cast<int64_t>(parameters.size()), 1,
                     [&](int64_t begin, int64_t end, int) {
                       for (int64_t i = begin; i < end; ++i)
                         Derive(parameters[static_cast<size_t>(i)]);
                     });
  } else {
    // All rounded copies at once, what else there is one after the other in the device's queue.
    std::vector<RoundedCopy> copies;
    for (Parameter& p : parameters) {
      if (HasCopyInPlace(p) && p.value.dtype() == DType::kF32 && p.value.contiguous() &&
          (p.compute.dtype() == DType::kBF16 || p.compute.dtype() == DType::kF16)) {
        copies.push_back({p.value, p.compute});
      } else {
        Derive(p);
      }
    }
    RoundAll(copies);
  }
  fingerprint_ = 0;
}

void BlockLanguageModel::ParametersTrained() {
  for (Parameter& p : list_.parameters()) {
    if (!p.compute_is_copy) Derive(p);
  }
  fingerprint_ = 0;
}

uint64_t BlockLanguageModel::fingerprint() const {
  if (const uint64_t known = fingerprint_; known != 0) return known;
  const ModelConfig& c = config_;
  std::string samples =
      fmt::format("{} {} {} {} {} {:a} {} {} {} {} {} {} {} {:a} {} {} {:a} {:a} {} {}",
                  ArchitectureName(c.architecture), c.vocab_size, c.d_model, c.n_layer,
                  c.tie_word_embeddings, c.norm_eps, c.rms_norm, c.d_state, c.d_conv, c.d_inner,
                  c.dt_rank, c.use_bias, c.use_conv_bias, c.mixer_norm_eps, c.head_dim, c.n_groups,
                  c.dt_limit_min, c.dt_limit_max, c.d_intermediate, c.use_parallel_residual);
  const AttentionConfig& a = c.attention;
  samples +=
      fmt::format(" {} {} {} {} {:a} {} {} {} {}", a.n_head, a.n_kv_head, a.d_head, a.rotary_dim,
                  a.rope_theta, a.rotary_interleaved, a.use_qkv_bias, a.use_out_bias, a.d_conv);
  for (const int64_t layer : c.attention_layers) samples += fmt::format(" {}", layer);
  for (const Parameter& p : list_.parameters()) {
    if (!p.value.defined()) {
      throw Error(ErrorCode::kInvalidArgument, "parameter " + p.name + " has no value yet");
    }
    samples += DTypeName(p.value.dtype());
    AppendSamples(p.value, &samples);
  }
  const uint64_t digest = std::max<uint64_t>(1, XXH64(samples.data(), samples.size(), 0));
  fingerprint_ = digest;
  return digest;
}

State BlockLanguageModel::InitialState(int64_t sequences) const {
  std::vector<State::Entry> entries;
  entries.reserve(memory_.size());
  for (const Block::MemoryPart& part : memory_) {
    std::vector<int64_t> dims = {sequences};
    if (part.grows) dims.push_back(0);
    dims.insert(dims.end(), part.dims.begin(), part.dims.end());
    entries.push_back({part.name, Tensor::Zeros(Shape(dims), part.dtype, device_), part.grows});
  }
  return State(fingerprint(), std::vector<int64_t>(static_cast<size_t>(sequences), 0),
               std::move(entries));
}

void BlockLanguageModel::CheckForward(const Tensor& tokens, const SequenceLayout& layout,
                                      const Memory* memory) const {
  const auto invalid = [](const std::string& message) {
    throw Error(ErrorCode::kInvalidArgument, message);
  };
  if (!embedding_->compute.defined()) invalid("the model's parameters have no values yet");
  if (!tokens.defined() || tokens.dtype() != DType::kI32 ||
      tokens.shape() != Shape({layout.rows()})) {
    invalid(fmt::format("tokens are {}, expected i32 [{}] as the layout says", tokens.ToString(),
                        layout.rows()));
  }
  // What lies in host memory is looked at while that costs nothing; see Embedding for the rest.
  if (device_.type != DeviceType::kCpu && tokens.device().type == DeviceType::kCpu) {
    const std::span<const int32_t> values(tokens.data<int32_t>(),
                                          static_cast<size_t>(tokens.elements()));
    for (const int32_t token : values) {
      if (token < 0 || token >= config_.vocab_size) {
        invalid(fmt::format("token {} is outside the vocabulary of {}", token, config_.vocab_size));
      }
    }
  }
  if (memory == nullptr) return;
  const auto sequences = static_cast<size_t>(layout.sequences());
  if (!memory->positions.empty() && memory->positions.size() != sequences) {
    invalid(fmt::format("{} positions were given, expected one for each of {} sequences",
                        memory->positions.size(), sequences));
  }
  if (!memory->entries.empty() && memory->entries.size() != memory_.size()) {
    invalid(fmt::format("{} memory variables were given, expected {}", memory->entries.size(),
                        memory_.size()));
  }
  if (const Tensor& there = memory->device_positions;
      there &&
      (layout != SequenceLayout::Uniform(layout.sequences(), 1) || there.dtype() != DType::kI64 ||
       there.shape() != Shape({layout.sequences()}) || there.device() != device_)) {
    invalid(fmt::format("positions on the device are {}, expected i64 [{}] and one row a sequence",
                        there.ToString(), layout.sequences()));
  }
  const int64_t longest = memory->positions.empty() ? 0
                                                    : *std::max_element(memory->positions.begin(),
                                                                        memory->positions.end());
  for (size_t i = 0; i < memory->entries.size(); ++i) {
    const Tensor& value = memory->entries[i].value();
    const Block::MemoryPart& part = memory_[i];
    if (!value.defined() && (!part.grows || longest == 0)) continue;
    std::vector<int64_t> dims = {layout.sequences()};
    if (part.grows) {
      const bool has_room = value.defined() && value.rank() >= 2 && value.dim(1) >= longest;
      dims.push_back(has_room ? value.dim(1) : longest);
    }
    dims.insert(dims.end(), part.dims.begin(), part.dims.end());
    if (!value.defined() || value.dtype() != part.dtype || value.shape() != Shape(dims) ||
        !value.contiguous()) {
      invalid(fmt::format("memory {} is {}, expected dense {} {}", part.name, value.ToString(),
                          DTypeName(part.dtype), Shape(dims).ToString()));
    }
  }
}

Variable BlockLanguageModel::Hidden(Tape* tape, const Tensor& tokens, const SequenceLayout& layout,
                                    Memory* memory, Recompute recompute,
                                    SelectionTrace* trace) const {
  CheckForward(tokens, layout, memory);
  const bool carries = memory != nullptr;
  std::vector<int64_t> positions(static_cast<size_t>(layout.sequences()), 0);
  if (carries) {
    if (!memory->positions.empty()) positions = memory->positions;
    memory->entries.resize(memory_.size());
  }
  Tensor row_positions;
  if (carries && memory->device_positions) {
    row_positions = memory->device_positions;
  } else if (config_.is_transformer() || !config_.attention_layers.empty()) {
    row_positions = Tensor::Empty({layout.rows()}, DType::kI64);
    for (int64_t s = 0; s < layout.sequences(); ++s) {
      for (int64_t row = layout.begin(s); row < layout.end(s); ++row) {
        row_positions.data<int64_t>()[row] =
            positions[static_cast<size_t>(s)] + row - layout.begin(s);
      }
    }
    row_positions = row_positions.To(device_);
  }

  Variable x = Embedding(tape, tokens.To(device_), *embedding_, DType::kF32);
  Variable residual;
  for (const PlacedBlock& placed : blocks_) {
    const std::span<Variable> parts =
        carries ? std::span(memory->entries).subspan(placed.memory_begin, placed.memory_count)
                : std::span<Variable>();
    if (tape == nullptr || recompute != Recompute::kBlock) {
      const BlockContext context = {
          .tape = tape,
          .layout = layout,
          .positions = positions,
          .row_positions = row_positions,
          .update = tape == nullptr ? MemoryUpdate::kOverwrite : MemoryUpdate::kReplace,
          .recompute = recompute,
          .trace = trace};
      x = placed.block->Forward(context, x, &residual, parts);
      continue;
    }
    // Inputs and outputs: what the block adds, the stream, what it remembers.
    const BlockFunction run = [block = placed.block.get(), layout, positions, row_positions, trace](
                                  Tape* inner, const std::vector<Variable>& in) {
      const BlockContext context = {
          .tape = inner,
          .layout = layout,
          .positions = positions,
          .row_positions = row_positions,
          .update = MemoryUpdate::kReplace,
          .recompute = Recompute::kNone,
          .trace = inner == nullptr ? trace : nullptr};  // traced once, not when recomputed
      std::vector<Variable> out = in;
      out[0] = block->Forward(context, in[0], &out[1], std::span(out).subspan(2));
      return out;
    };
    std::vector<Variable> in = {x, residual};
    in.insert(in.end(), parts.begin(), parts.end());
    const std::vector<Variable> out = Checkpoint(tape, run, in);
    x = out[0];
    residual = out[1];
    std::copy(out.begin() + 2, out.end(), parts.begin());
  }
  if (carries) {
    for (int64_t s = 0; s < layout.sequences(); ++s) {
      positions[static_cast<size_t>(s)] += layout.length(s);
    }
    memory->positions = std::move(positions);
  }
  return norm_.Apply(tape, x, residual, compute_dtype_);
}

Tensor BlockLanguageModel::Logits(const Tensor& hidden) const {
  Tensor logits = Tensor::Empty({hidden.dim(0), config_.vocab_size}, DType::kF32, hidden.device());
  Linear(hidden, head_->compute, {}, logits);
  return logits;
}

Variable BlockLanguageModel::Loss(Tape* tape, const Variable& hidden, const Tensor& targets) const {
  return SoftmaxCrossEntropy(tape, hidden, *head_, targets.To(device_));
}

Tensor BlockLanguageModel::LossWithGradients(const Variable& hidden, const Tensor& targets,
                                             const Tensor& d_loss) const {
  return SoftmaxCrossEntropyWithGradients(hidden, *head_, targets.To(device_), d_loss);
}

}  // namespace adder
