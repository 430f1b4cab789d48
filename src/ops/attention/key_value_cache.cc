#include "adder/ops/attention/key_value_cache.h"

#include <fmt/format.h>

#include <algorithm>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/vector_math.h"
#include "adder/ops/argument_check.h"

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

// Copies rows of one matrix to another, of any of the dtypes.
void CopyRows(const Tensor& from, const Tensor& to) {
  if (from.elements() == 0) return;
  if (from.device().type != DeviceType::kCpu) ThrowNoBackend(kOp, from.device());
  constexpr int64_t kThreadElements = 32768;
  cpu::ParallelFor(from.dim(0), std::max<int64_t>(1, kThreadElements / from.dim(1)),
                   [&](int64_t begin, int64_t end, int) {
                     for (int64_t row = begin; row < end; ++row) {
                       cpu::VectorConvert({static_cast<const std::byte*>(from.raw()) +
                                               row * from.stride(0) * DTypeSize(from.dtype()),
                                           from.dtype(),
                                           static_cast<std::byte*>(to.raw()) +
                                               row * to.stride(0) * DTypeSize(to.dtype()),
                                           to.dtype(), from.dim(1)});
                     }
                   });
}

// Rows [begin, begin + count) of sequence s.
Tensor SequenceRows(const Tensor& cache, int64_t s, int64_t begin, int64_t count) {
  return CacheRows(cache).Rows(s * cache.dim(1) + begin, count);
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
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    CopyRows(rows.Rows(layout.begin(s), layout.length(s)),
             SequenceRows(cache, s, lengths[static_cast<size_t>(s)], layout.length(s)));
  }
}

void AppendToCacheBackward(const Tensor& d_cache, const SequenceLayout& layout,
                           std::span<const int64_t> lengths, const Tensor& d_rows) {
  const ArgumentCheck check(kOp, d_cache.device());
  CheckCache(check, d_cache, lengths, layout);
  if (!d_rows) return;
  check.Rows(d_rows, "d_rows", {DType::kF32, DType::kBF16, DType::kF16},
             {layout.rows(), d_cache.dim(2)});
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    CopyRows(SequenceRows(d_cache, s, lengths[static_cast<size_t>(s)], layout.length(s)),
             d_rows.Rows(layout.begin(s), layout.length(s)));
  }
}

void CopyFilledRows(const Tensor& from, std::span<const int64_t> lengths, const Tensor& to) {
  const ArgumentCheck check(kOp, to.device());
  const SequenceLayout nothing = SequenceLayout::Uniform(static_cast<int64_t>(lengths.size()), 0);
  CheckCache(check, from, lengths, nothing);
  CheckCache(check, to, lengths, nothing);
  check.That(from.dim(2) == to.dim(2), "two caches differ in their columns");
  for (int64_t s = 0; s < to.dim(0); ++s) {
    const int64_t length = lengths[static_cast<size_t>(s)];
    CopyRows(SequenceRows(from, s, 0, length), SequenceRows(to, s, 0, length));
    SequenceRows(to, s, length, to.dim(1) - length).SetZero();
  }
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
