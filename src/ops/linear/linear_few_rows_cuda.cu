// linear of few rows on CUDA: which are taken, and by which of the kernels.
#include "adder/ops/linear/linear_few_rows_kernel.cuh"

namespace adder::cuda {
namespace {

constexpr int64_t kLongRow = 2048;  // bytes of a row that a block may take

template <class T, int kRows>
void LaunchFor(Context& context, const LinearArguments& a) {
  const int64_t row_bytes = a.K * static_cast<int64_t>(sizeof(T));
  if (row_bytes <= few_rows::kShortRow) {
    few_rows::Launch<T, kRows, 8>(context, a, PlainEnds{});
  } else if (row_bytes >= kLongRow && a.N <= 4 * context.multiprocessors()) {
    few_rows::Launch<T, kRows, few_rows::kThreads>(context, a, PlainEnds{});
  } else {
    few_rows::Launch<T, kRows, 32>(context, a, PlainEnds{});
  }
}

}  // namespace

bool TakesFewRows(const LinearArguments& a) {
  if (a.rows > few_rows::kMostRows || IsQuantized(a.W.dtype)) return false;
  const int64_t size = a.W.dtype == DType::kF32 ? 4 : 2;
  const int64_t x_size = a.x.dtype == DType::kF32 ? 4 : 2;
  return a.K % (16 / size) == 0 && a.K * 4 <= few_rows::kMostShared &&
         AlignedTo(16, a.W.data, a.W.stride, size) &&
         AlignedTo(4 * x_size, a.x.data, a.x.stride, x_size);
}

// More rows at a time share what is read of W, as long as all of them find room.
void LinearFewRows(Context& context, const LinearArguments& a) {
  const int64_t room = few_rows::kMostShared / std::max<int64_t>(1, a.K * 4);
  const int64_t at_a_time = room >= 4 ? 4 : room >= 2 ? 2 : 1;
  VisitActivation(a.W.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t row = 0; row < a.rows; row += at_a_time) {
      LinearArguments some = a;
      some.rows = std::min(at_a_time, a.rows - row);
      const auto from = [row](Rows* rows) {
        const int64_t size = rows->dtype == DType::kF32 ? 4 : 2;
        rows->data = static_cast<std::byte*>(rows->data) + row * rows->stride * size;
      };
      from(&some.x);
      from(&some.y);
      if (some.rows == 1) {
        LaunchFor<T, 1>(context, some);
      } else if (some.rows == 2) {
        LaunchFor<T, 2>(context, some);
      } else {
        LaunchFor<T, 4>(context, some);
      }
    }
  });
}

}  // namespace adder::cuda
