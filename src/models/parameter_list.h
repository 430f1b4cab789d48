// The parameters of a model under construction: each block adds those it reads, and keeps a
// pointer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "adder/autograd/tape.h"
#include "adder/core/shape.h"

namespace adder {

// Weight decay goes as in the trainer that Mamba's authors published for their language models:
// linear layers (the untied head too) and convolution kernels decay; biases, norms, A_log, D and
// the embedding, tied or not, do not.
class ParameterList {
 public:
  // No block adds more.
  static constexpr int64_t kMostOfALayer = 16;
  static constexpr int64_t kMostOutsideLayers = 4;

  // Room for a model of that many layers: pointers to parameters stay valid.
  explicit ParameterList(int64_t layers);
  ParameterList(const ParameterList&) = delete;
  ParameterList& operator=(const ParameterList&) = delete;

  // A linear layer's weight [outputs, inputs]: in the compute dtype, decays.
  const Parameter* Weight(std::string name, int64_t outputs, int64_t inputs);
  // A token table [vocab_size, d_model]: in the compute dtype.
  const Parameter* Embedding(std::string name, int64_t vocab_size, int64_t d_model);
  // A convolution's kernels [channels, 1, width]: f32, decays.
  const Parameter* Convolution(std::string name, int64_t channels, int64_t width);
  // A bias, a norm's weight, D, A_log, …: f32.
  const Parameter* Small(std::string name, const Shape& shape);
  // Small(name, {size}) when wanted, else null.
  const Parameter* BiasIf(bool wanted, std::string name, int64_t size);

  std::span<Parameter> parameters() { return parameters_; }
  std::span<const Parameter> parameters() const { return parameters_; }
  // The shape that every parameter must have, by index.
  const std::vector<Shape>& shapes() const { return shapes_; }

 private:
  const Parameter* Add(std::string name, const Shape& shape, bool full_precision, bool decays);

  std::vector<Parameter> parameters_;
  std::vector<Shape> shapes_;
};

}  // namespace adder
