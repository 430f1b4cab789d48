#include "adder/ops/attention/key_value_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/vector_math.h"
#include "adder/ops/argument_check.h"
#include "adder/ops/attention/key_value_cache_backends.h"

namespace adder {
namespace {

constexpr const char* kOp = "key_value_cache";

void CheckCache(const ArgumentCheck& check, const Tensor& cache, std::span<const int64_t> lengths,
                const SequenceLayout& layout) {
  check.Rank(cache, "cache", 3);
  check.Dense(cache, "cache", {DType::kF32, DType::kBF16, DType::kF16}, cache.shape());
  if (cache.dim(0) != layout.sequences() ||
      static_cast<int64_t>(lengths.size()) != layout.sequences()) {
    check.Fail(fmt::format("the cache is {} with {} lengths, expected those of {} sequences",
                           cache.ToString(), lengths.size(), layout.sequences()));
  }
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    const int64_t length = lengths[static_cast<size_t>(s)];
    if (length < 0 || length > cache.dim(1) - layout.length(s)) {
      check.Fail(fmt::format("sequence {} has {} rows and {} new ones, the cache's capacity is {}",
                             s, length, layout.length(s), cache.dim(1)));
    }
  }
}

using cuda::RowSpan;

// Copies and clears rows of matrices of any of the dtypes.
void CopySpans(const Tensor& from, const Tensor& to, std::span<const RowSpan> spans) {
  if (to.elements() == 0) return;
  if (to.device().type == DeviceType::kCuda) return cuda::CopyRowSpans(from, to, spans);
  constexpr int64_t kThreadElements = 32768;
  for (const RowSpan& span : spans) {
    const Tensor source = from.Rows(span.from, span.rows);
    const Tensor target = to.Rows(span.to, span.rows);
    cpu::ParallelFor(span.rows, std::max<int64_t>(1, kThreadElements / to.dim(1)),
                     [&](int64_t begin, int64_t end, int) {
                       for (int64_t row = begin; row < end; ++row) {
                         cpu::VectorConvert({source.row(row), source.dtype(), target.row(row),
                                             target.dtype(), target.dim(1)});
                       }
                     });
    to.Rows(span.to + span.rows, span.zeros).SetZero();
  }
}

// The rows of each sequence behind those that its cache holds.
enum class Direction { kAppend, kTakeOut };
std::vector<RowSpan> NewRows(Direction direction, const SequenceLayout& layout,
                             std::span<const int64_t> lengths, int64_t capacity) {
  std::vector<RowSpan> spans;
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    const int64_t cached = s * capacity + lengths[static_cast<size_t>(s)];
    RowSpan span = {layout.begin(s), cached, layout.length(s), 0, 0};
    if (direction == Direction::kTakeOut) std::swap(span.from, span.to);
    spans.push_back(span);
  }
  return spans;
}

}  // namespace

int64_t GrownCapacity(std::span<const int64_t> lengths, const SequenceLayout& layout,
                      int64_t capacity) {
  const ArgumentCheck check(kOp, {});
  if (static_cast<int64_t>(lengths.size()) != layout.sequences()) {
    check.Fail(fmt::format("there are {} lengths, expected those of {} sequences", lengths.size(),
                           layout.sequences()));
  }
  int64_t needed = 0;
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    const int64_t length = lengths[static_cast<size_t>(s)];
    if (length < 0 || length > capacity) {
      check.Fail(
          fmt::format("sequence {} has {} rows, the cache's capacity is {}", s, length, capacity));
    }
    needed = std::max(needed, length + layout.length(s));
  }
  return needed <= capacity ? capacity : std::max(needed, capacity + capacity / 2);
}

void AppendToCache(const Tensor& rows, const SequenceLayout& layout,
                   std::span<const int64_t> lengths, const Tensor& cache) {
  const ArgumentCheck check(kOp, cache.device());
  CheckCache(check, cache, lengths, layout);
  check.Rows(rows, "rows", {DType::kF32, DType::kBF16, DType::kF16}, {layout.rows(), cache.dim(2)});
  CopySpans(rows, CacheRows(cache), NewRows(Direction::kAppend, layout, lengths, cache.dim(1)));
}

void AppendToCache(const Tensor& rows, const Tensor& lengths, const Tensor& cache) {
  const ArgumentCheck check(kOp, cache.device());
  check.Rank(cache, "cache", 3);
  check.Dense(lengths, "lengths", {DType::kI64}, {cache.dim(0)});
  if (cache.device().type != DeviceType::kCuda) {
    return AppendToCache(rows, SequenceLayout::Uniform(cache.dim(0), 1),
                         {lengths.data<int64_t>(), static_cast<size_t>(lengths.elements())}, cache);
  }
  check.Dense(cache, "cache", {DType::kF32, DType::kBF16, DType::kF16}, cache.shape());
  check.Rows(rows, "rows", {DType::kF32, DType::kBF16, DType::kF16}, {cache.dim(0), cache.dim(2)});
  cuda::AppendRows(rows, lengths, cache);
}

void AppendToCacheBackward(const Tensor& d_cache, const SequenceLayout& layout,
                           std::span<const int64_t> lengths, const Tensor& d_rows) {
  const ArgumentCheck check(kOp, d_cache.device());
  CheckCache(check, d_cache, lengths, layout);
  if (!d_rows) return;
  check.Rows(d_rows, "d_rows", {DType::kF32, DType::kBF16, DType::kF16},
             {layout.rows(), d_cache.dim(2)});
  CopySpans(CacheRows(d_cache), d_rows,
            NewRows(Direction::kTakeOut, layout, lengths, d_cache.dim(1)));
}

void CopyFilledRows(const Tensor& from, std::span<const int64_t> lengths, const Tensor& to) {
  const ArgumentCheck check(kOp, to.device());
  const SequenceLayout nothing = SequenceLayout::Uniform(static_cast<int64_t>(lengths.size()), 0);
  CheckCache(check, from, lengths, nothing);
  CheckCache(check, to, lengths, nothing);
  check.That(from.dim(2) == to.dim(2), "two caches differ in their columns");
  std::vector<RowSpan> spans;
  for (int64_t s = 0; s < to.dim(0); ++s) {
    const int64_t length = lengths[static_cast<size_t>(s)];
    spans.push_back({s * from.dim(1), s * to.dim(1), length, to.dim(1) - length, 0});
  }
  CopySpans(CacheRows(from), CacheRows(to), spans);
}

Tensor CacheRows(const Tensor& cache) {
  return cache.Reshape({cache.dim(0) * cache.dim(1), cache.dim(2)});
}

std::vector<KeyRange> CacheRanges(const Tensor& cache, const SequenceLayout& layout,
                                  std::span<const int64_t> lengths) {
  CheckCache(ArgumentCheck(kOp, cache.device()), cache, lengths, layout);
  std::vector<KeyRange> ranges;
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    ranges.push_back({s * cache.dim(1), lengths[static_cast<size_t>(s)] + layout.length(s)});
  }
  return ranges;
}

}  // namespace adder
