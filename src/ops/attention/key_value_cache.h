// The cache of an attention layer: the keys, or the values, of all rows that each sequence has
// read, [sequences, capacity, G · d_head]. The first length(s) rows of sequence s are filled, the
// others are zero.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "adder/core/sequence_layout.h"
#include "adder/core/tensor.h"
#include "adder/ops/attention/attention.h"

namespace adder {

// The capacity that a cache must have to take the layout's rows in after `lengths` that are filled:
// `capacity` where that suffices, else half as much again or what is needed, so that a sequence
// that grows row by row is copied a logarithmic number of times. Throws kInvalidArgument for
// lengths that are not one a sequence or do not fit the capacity.
int64_t GrownCapacity(std::span<const int64_t> lengths, const SequenceLayout& layout,
                      int64_t capacity);

// Writes each sequence's rows, [rows, G · d_head], behind its filled ones, converted to the cache's
// dtype (f32, bf16 or f16 each). Throws kInvalidArgument when shapes disagree or the capacity does
// not suffice.
void AppendToCache(const Tensor& rows, const SequenceLayout& layout,
                   std::span<const int64_t> lengths, const Tensor& cache);

// The same where each sequence has one row and the lengths, i64 [sequences], lie on the cache's
// device. On a CUDA device a row without room is left out, and the next call that waits for the
// device throws.
void AppendToCache(const Tensor& rows, const Tensor& lengths, const Tensor& cache);

// Takes the gradient of the rows out of that of the cache they were appended to: d_rows, where
// given, is overwritten, in its own dtype.
void AppendToCacheBackward(const Tensor& d_cache, const SequenceLayout& layout,
                           std::span<const int64_t> lengths, const Tensor& d_rows);

// A [sequences, capacity, columns] cache's filled rows: in `to`, of the same columns and its own
// capacity, with zeros behind them.
void CopyFilledRows(const Tensor& from, std::span<const int64_t> lengths, const Tensor& to);

// What attention reads of such a cache once the layout's rows have been appended: its rows as one
// matrix, and the keys of each sequence.
Tensor CacheRows(const Tensor& cache);
std::vector<KeyRange> CacheRanges(const Tensor& cache, const SequenceLayout& layout,
                                  std::span<const int64_t> lengths);

}  // namespace adder
