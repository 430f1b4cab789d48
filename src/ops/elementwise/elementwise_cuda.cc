// elementwise on a CUDA device: hands the tensors to the module.
#include "adder/backend/cuda/module.h"
#include "adder/core/error.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/elementwise/elementwise_backends.h"

namespace adder::cuda {

void AddTo(const Tensor& target, const Tensor& source) {
  if (target.elements() == 0) return;
  // The trailing dimensions without gaps are a row's columns; rows lie evenly.
  const int rank = target.rank();
  int outer = rank;
  int64_t columns = 1;
  while (outer > 0 && (target.dim(outer - 1) == 1 || target.stride(outer - 1) == columns)) {
    columns *= target.dim(outer - 1);
    --outer;
  }
  int64_t rows = 1;
  int64_t stride = columns;
  for (int i = outer - 1; i >= 0; --i) {
    if (rows == 1) {
      stride = target.stride(i);
    } else if (target.dim(i) != 1 && target.stride(i) != rows * stride) {
      throw Error(ErrorCode::kInvalidArgument,
                  "add to: the rows of the target, " + target.ToString() + ", lie unevenly");
    }
    rows *= target.dim(i);
  }
  GetModule().operators().add_to({.device = target.device().index,
                                  .rows = rows,
                                  .columns = columns,
                                  .target = {target.raw(), stride, target.dtype()},
                                  .source = {source.raw(), columns, source.dtype()}});
}

void AddProduct(const Tensor& sum, const Tensor& a, const Tensor& b) {
  GetModule().operators().add_product({.device = sum.device().index,
                                       .elements = sum.elements(),
                                       .sum = FloatsOf(sum),
                                       .a = FloatsOf(a),
                                       .b = FloatsOf(b)});
}

void NegativeExp(const Tensor& x, const Tensor& y) {
  GetModule().operators().negative_exp(
      {.device = x.device().index, .elements = x.elements(), .x = FloatsOf(x), .y = FloatsOf(y)});
}

}  // namespace adder::cuda
