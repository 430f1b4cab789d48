// The kinds of parameters, and what each means for precision and weight decay.
#include "adder/models/parameter_list.h"

#include <utility>

#include "adder/core/error.h"

namespace adder {
namespace {

constexpr bool kDecays = true;
constexpr bool kFullPrecision = true;

}  // namespace

ParameterList::ParameterList(int64_t layers) {
  const auto most = static_cast<size_t>(kMostOfALayer * layers + kMostOutsideLayers);
  parameters_.reserve(most);
  shapes_.reserve(most);
}

const Parameter* ParameterList::Add(std::string name, const Shape& shape, bool full_precision,
                                    bool decays) {
  if (parameters_.size() == parameters_.capacity()) {
    throw Error(ErrorCode::kInvalidArgument, "no room for parameter " + name);
  }
  Parameter parameter;
  parameter.name = std::move(name);
  parameter.full_precision = full_precision;
  parameter.weight_decay = decays;
  parameters_.push_back(std::move(parameter));
  shapes_.push_back(shape);
  return &parameters_.back();
}

const Parameter* ParameterList::Weight(std::string name, int64_t outputs, int64_t inputs) {
  return Add(std::move(name), {outputs, inputs}, !kFullPrecision, kDecays);
}
const Parameter* ParameterList::Embedding(std::string name, int64_t vocab_size, int64_t d_model) {
  return Add(std::move(name), {vocab_size, d_model}, !kFullPrecision, !kDecays);
}
const Parameter* ParameterList::Convolution(std::string name, int64_t channels, int64_t width) {
  return Add(std::move(name), {channels, 1, width}, kFullPrecision, kDecays);
}
const Parameter* ParameterList::Small(std::string name, const Shape& shape) {
  return Add(std::move(name), shape, kFullPrecision, !kDecays);
}
const Parameter* ParameterList::BiasIf(bool wanted, std::string name, int64_t size) {
  return wanted ? Small(std::move(name), {size}) : nullptr;
}

}  // namespace adder
