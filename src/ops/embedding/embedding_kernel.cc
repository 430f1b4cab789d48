// embedding backward: rows added up.
#include "adder/ops/embedding/embedding_kernel.h"

#include "adder/backend/cpu/simd.h"

namespace adder::cpu::ADDER_ISA {
namespace {

template <class T>
void Backward(const EmbeddingBackwardArguments& a) {
  for (int64_t t = 0; t < a.rows; ++t) {
    const T* from = static_cast<const T*>(a.dy) + t * a.dy_stride;
    float* to = a.dW + a.tokens[t] * a.dW_stride;
    int64_t d = a.channel_begin;
    for (; d + kLanes <= a.channel_end; d += kLanes) Store(Load(to + d) + Load(from + d), to + d);
    const int64_t rest = a.channel_end - d;
    if (rest > 0) {
      StorePartial(LoadPartial(to + d, rest) + LoadPartial(from + d, rest), to + d, rest);
    }
  }
}

}  // namespace

void EmbeddingBackwardKernel(const EmbeddingBackwardArguments& arguments) {
  VisitActivation(arguments.dy_dtype, [&](auto type) { Backward<decltype(type)>(arguments); });
}

}  // namespace adder::cpu::ADDER_ISA
