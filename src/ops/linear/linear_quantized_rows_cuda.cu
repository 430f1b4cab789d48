// linear of few rows and quantized weights on CUDA: which are taken.
#include "adder/ops/linear/linear_quantized_rows_kernel.cuh"

namespace adder::cuda {

bool TakesQuantizedRows(const Context& context, const LinearArguments& a) {
  if (!IsQuantized(a.W.dtype) || a.rows > quantized_rows::kMostRows || a.K == 0) return false;
  const int64_t x_size = a.x.dtype == DType::kF32 ? 4 : 2;
  const int64_t rounded = a.rows <= 2 ? a.rows : quantized_rows::kMostRows;
  const bool dense = a.W_row_bytes == DTypeBytes(a.W.dtype, a.K);
  return dense && reinterpret_cast<uintptr_t>(a.W.data) % quantized_rows::kPiece == 0 &&
         AlignedTo(4 * x_size, a.x.data, a.x.stride, x_size) &&
         quantized_rows::Fits<PlainEnds>(context, a.x.dtype, rounded * a.K);
}

void LinearQuantizedRows(Context& context, const LinearArguments& a) {
  VisitBlock(a.W.dtype, [&](auto block) {
    using Block = decltype(block);
    if (a.rows == 1) {
      quantized_rows::Launch<Block, 1>(context, a, PlainEnds{});
    } else if (a.rows == 2) {
      quantized_rows::Launch<Block, 2>(context, a, PlainEnds{});
    } else {
      quantized_rows::Launch<Block, 4>(context, a, PlainEnds{});
    }
  });
}

}  // namespace adder::cuda
