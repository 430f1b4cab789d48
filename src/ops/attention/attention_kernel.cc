// attention on the CPU, in three ways. Many rows: tiles of queries and keys are packed as f32, and
// scores and sums are small matrix products in registers. One row (decoding): keys and values are
// streamed once, in the order of memory, by all heads together. The backward is products of tiles
// again.
#include "adder/ops/attention/attention_kernel.h"

#include "adder/backend/cpu/block_product.h"
#include "adder/backend/cpu/vector_loop.h"

namespace adder::cpu::ADDER_ISA {
namespace {

constexpr int64_t kKeys = kAttentionTileKeys;
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;
constexpr float kMinusInfinity = -__builtin_inff();

ADDER_SIMD int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
ADDER_SIMD int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }

// ---- Many rows ----------------------------------------------------------------------------------

// A row's running maximum, its sum in kLanes parts, and the sum of values weighted by 2^(score -
// maximum).
struct RunningRow {
  float* maximum;
  float* sums;
  float* values;
};

// Takes a row of scores in, of which the first `visible` count, and leaves the weights in their
// place; those up to the end of the last vector that holds any of the first `width` become 0.
ADDER_SIMD void TakeScores(float* scores, int64_t visible, int64_t width, int64_t value_columns,
                           const RunningRow& row) {
  if (visible <= 0) {
    SetZeros(scores, width);
    return;
  }
  F32 most = Set(*row.maximum);
  int64_t j = 0;
  for (; j + kLanes <= visible; j += kLanes) most = Max(Load(scores + j), most);
  if (j < visible) {
    const F32 tail = Select(FirstLanes(visible - j), Load(scores + j), Set(kMinusInfinity));
    most = Max(tail, most);
  }
  const float maximum = ReduceMax(most);
  const float grown = *row.maximum - maximum;
  const F32 shift = Set(maximum);
  F32 sums = Load(row.sums);
  if (grown != 0.0f) {
    const F32 factor = Exp2(Set(grown));
    sums *= factor;
    for (int64_t d = 0; d < value_columns; d += kLanes) {
      Store(Load(row.values + d) * factor, row.values + d);
    }
    *row.maximum = maximum;
  }
  for (j = 0; j < width; j += kLanes) {
    F32 weight = Exp2(Load(scores + j) - shift);
    if (j + kLanes > visible) weight = Select(FirstLanes(Most(0, visible - j)), weight, Zero());
    sums += weight;
    Store(weight, scores + j);
  }
  Store(sums, row.sums);
}

void Forward(const AttentionForwardArguments& a) {
  const AttentionProblem& p = *a.problem;
  const int64_t group = p.heads / p.kv_heads;
  const int64_t d_head = p.d_head;
  const int64_t padded = Padded(d_head);
  const int64_t most_rows = Padded(a.rows * group);
  // Row i of the group's head h is row h · rows + i of these.
  float* queries = a.scratch;
  float* values_sum = queries + most_rows * padded;
  float* maxima = values_sum + most_rows * padded;
  float* sums = maxima + most_rows;
  float* keys = sums + most_rows * kBlockPad;
  float* values = keys + padded * kKeys;
  float* scores = values + padded * kKeys;

  for (int64_t h = 0; h < group; ++h) {
    Pack(p.q, p.activation, a.row, (a.kv_head * group + h) * d_head, a.rows, d_head,
         p.scale * kLog2E, queries + h * a.rows * padded, padded);
  }
  SetZeros(values_sum, most_rows * padded);
  SetZeros(sums, most_rows * kBlockPad);
  for (int64_t i = 0; i < a.rows * group; ++i) maxima[i] = kMinusInfinity;

  const int64_t last_visible = a.visible + a.rows - 1;
  for (int64_t first = 0; first < last_visible; first += kKeys) {
    const int64_t count = Least(kKeys, last_visible - first);
    PackColumns(p.keys, p.key, a.first_key + first, a.kv_head * d_head, count, d_head, keys, kKeys);
    Pack(p.values, p.key, a.first_key + first, a.kv_head * d_head, count, d_head, 1.0f, values,
         padded);
    // Earlier rows see nothing of this tile.
    const int64_t first_row = Most(0, first - a.visible + 1);
    for (int64_t h = 0; h < group; ++h) {
      for (int64_t i = first_row; i < a.rows; i += kTileRows) {
        const int64_t rows = Least(kTileRows, a.rows - i);
        const int64_t row = h * a.rows + i;
        const int64_t seen = Least(count, a.visible + i + rows - 1 - first);
        const int64_t width = PaddedToVector(seen);
        BlockProduct<false>(rows, width, d_head, {queries + row * padded, padded, 1}, keys, kKeys,
                            scores, kKeys);
        for (int64_t r = 0; r < rows; ++r) {
          TakeScores(
              scores + r * kKeys, Least(count, a.visible + i + r - first), width, padded,
              {maxima + row + r, sums + (row + r) * kBlockPad, values_sum + (row + r) * padded});
        }
        BlockProduct<true>(rows, PaddedToVector(d_head), seen, {scores, kKeys, 1}, values, padded,
                           values_sum + row * padded, padded);
      }
    }
  }

  for (int64_t h = 0; h < group; ++h) {
    const int64_t head = a.kv_head * group + h;
    for (int64_t i = 0; i < a.rows; ++i) {
      const int64_t row = h * a.rows + i;
      const float sum = ReduceSum(Load(sums + row * kBlockPad));
      Unpack(values_sum + row * padded, padded, 1, d_head, 1.0f / sum, p.y, p.activation, a.row + i,
             head * d_head);
      if (p.log_sum_exp != nullptr) {
        p.log_sum_exp[(a.row + i) * p.heads + head] = maxima[row] * kLn2 + Log(Set(sum))[0];
      }
    }
  }
}

// ---- One row ------------------------------------------------------------------------------------

// Asks for one head's columns of the kRows rows that come 16 rows later: the hardware follows a
// row, but not from a few rows to the next few. They are not read here, so they may lie past the
// end.
template <int kRows, class K>
ADDER_SIMD void PrefetchLater(const K* rows, int64_t stride, int64_t columns) {
  for (int i = 0; i < kRows; ++i) {
    const auto row =
        reinterpret_cast<uintptr_t>(rows) + static_cast<uintptr_t>((16 + i) * stride) * sizeof(K);
    for (int64_t byte = 0; byte < columns * static_cast<int64_t>(sizeof(K)); byte += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(row + static_cast<uintptr_t>(byte)), 0, 2);
    }
  }
}

// For kRows keys, one after the other: the products with each head's query as vectors whose lanes
// are yet to be added, products[head][row].
template <int kRows, class K>
ADDER_SIMD void MultiplyKeys(const AttentionProblem& p, const float* queries, const K* keys,
                             float* products) {
  const int64_t group = p.heads / p.kv_heads;
  const int64_t padded = Padded(p.d_head);
  for (int64_t g = 0; g < p.kv_heads; ++g, keys += p.d_head) {
    PrefetchLater<kRows>(keys, p.keys.stride, p.d_head);
    for (int64_t h = 0; h < group; ++h, queries += padded, products += kRows * kLanes) {
      F32 sums[kRows] = {};
      int64_t d = 0;
      for (; d + kLanes <= p.d_head; d += kLanes) {
        const F32 query = Load(queries + d);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) {
          sums[i] = MulAdd(query, Load(keys + i * p.keys.stride + d), sums[i]);
        }
      }
      for (int i = 0; d < p.d_head && i < kRows; ++i) {
        const F32 key = LoadPartial(keys + i * p.keys.stride + d, p.d_head - d);
        sums[i] = MulAdd(Load(queries + d), key, sums[i]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) Store(sums[i], products + i * kLanes);
    }
  }
}

// The scores of kRows keys, [row][head], from what MultiplyKeys left.
template <int kRows>
ADDER_SIMD void AddProducts(const AttentionProblem& p, const float* products, float* scores) {
  const int64_t padded_heads = Padded(p.heads);
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t h = 0; h < padded_heads; h += kLanes) {
      F32 lanes[kLanes];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) {
        lanes[i] = h + i < p.heads ? Load(products + ((h + i) * kRows + row) * kLanes) : Zero();
      }
      Store(FoldSums<kLanes>(lanes), scores + row * padded_heads + h);
    }
  }
}

// Adds kRows values, one after the other, times the weights [row][head] to each head's sum.
template <int kRows, class K>
ADDER_SIMD void AddValues(const AttentionProblem& p, const float* weights, const K* values,
                          float* sums) {
  const int64_t group = p.heads / p.kv_heads;
  const int64_t padded = Padded(p.d_head);
  const int64_t padded_heads = Padded(p.heads);
  for (int64_t g = 0; g < p.kv_heads; ++g, values += p.d_head) {
    PrefetchLater<kRows>(values, p.values.stride, p.d_head);
    for (int64_t h = 0; h < group; ++h, ++weights, sums += padded) {
      F32 weight[kRows];
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) weight[i] = Set(weights[i * padded_heads]);
      int64_t d = 0;
      for (; d + kLanes <= p.d_head; d += kLanes) {
        F32 sum = Load(sums + d);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) {
          sum = MulAdd(weight[i], Load(values + i * p.values.stride + d), sum);
        }
        Store(sum, sums + d);
      }
      for (int i = 0; d < p.d_head && i < kRows; ++i) {
        const F32 value = LoadPartial(values + i * p.values.stride + d, p.d_head - d);
        Store(MulAdd(weight[i], value, Load(sums + d)), sums + d);
      }
    }
  }
}

template <class K>
void Span(const AttentionSpanArguments& a) {
  const AttentionProblem& p = *a.problem;
  const int64_t padded = Padded(p.d_head);
  const int64_t padded_heads = Padded(p.heads);
  float* queries = a.scratch;
  float* scores = queries + p.heads * padded;  // [keys][heads]
  float* products = scores + kAttentionSpanKeys * padded_heads;
  float* maxima = a.partial;
  float* sums = maxima + padded_heads;
  float* values_sum = sums + padded_heads;
  for (int64_t head = 0; head < p.heads; ++head) {
    Pack(p.q, p.activation, a.row, head * p.d_head, 1, p.d_head, p.scale * kLog2E,
         queries + head * padded, padded);
  }

  int64_t j = 0;
  for (; j + 4 <= a.keys; j += 4) {
    MultiplyKeys<4>(p, queries, At<K>(p.keys, a.first_key + j, 0), products);
    AddProducts<4>(p, products, scores + j * padded_heads);
  }
  for (; j < a.keys; ++j) {
    MultiplyKeys<1>(p, queries, At<K>(p.keys, a.first_key + j, 0), products);
    AddProducts<1>(p, products, scores + j * padded_heads);
  }
  // Lanes are heads here.
  for (int64_t h = 0; h < padded_heads; h += kLanes) {
    F32 most = Set(kMinusInfinity);
    for (j = 0; j < a.keys; ++j) most = Max(Load(scores + j * padded_heads + h), most);
    F32 sum = Zero();
    for (j = 0; j < a.keys; ++j) {
      const F32 weight = Exp2(Load(scores + j * padded_heads + h) - most);
      sum += weight;
      Store(weight, scores + j * padded_heads + h);
    }
    Store(most, maxima + h);
    Store(sum, sums + h);
  }
  SetZeros(values_sum, p.heads * padded);
  for (j = 0; j + 4 <= a.keys; j += 4) {
    AddValues<4>(p, scores + j * padded_heads, At<K>(p.values, a.first_key + j, 0), values_sum);
  }
  for (; j < a.keys; ++j) {
    AddValues<1>(p, scores + j * padded_heads, At<K>(p.values, a.first_key + j, 0), values_sum);
  }
}

void Merge(const AttentionMergeArguments& a) {
  const AttentionProblem& p = *a.problem;
  const int64_t padded = Padded(p.d_head);
  const int64_t padded_heads = Padded(p.heads);
  const int64_t span = AttentionPartial(p.heads, p.d_head);
  for (int64_t head = 0; head < p.heads; ++head) {
    float maximum = kMinusInfinity;
    for (int64_t s = 0; s < a.spans; ++s) {
      const float each = a.partials[s * span + head];
      maximum = maximum < each ? each : maximum;
    }
    float sum = 0;
    for (int64_t s = 0; s < a.spans; ++s) {
      const float* partial = a.partials + s * span;
      sum += Exp2(Set(partial[head] - maximum))[0] * partial[padded_heads + head];
    }
    for (int64_t d = 0; d < padded; d += kLanes) {
      F32 total = Zero();
      for (int64_t s = 0; s < a.spans; ++s) {
        const float* partial = a.partials + s * span;
        const F32 factor = Exp2(Set(partial[head] - maximum));
        total = MulAdd(factor, Load(partial + 2 * padded_heads + head * padded + d), total);
      }
      alignas(64) float value[kLanes];
      Store(total, value);
      const int64_t n = Least(kLanes, p.d_head - d);
      if (n > 0) {
        Unpack(value, kLanes, 1, n, 1.0f / sum, p.y, p.activation, a.row, head * p.d_head + d);
      }
    }
    if (p.log_sum_exp != nullptr) {
      p.log_sum_exp[a.row * p.heads + head] = maximum * kLn2 + Log(Set(sum))[0];
    }
  }
}

// ---- Backward -----------------------------------------------------------------------------------

template <class T>
ADDER_SIMD double DotOf(const T* a, const T* b, int64_t count) {
  F32 sums[4] = {};
  ForEachVector(
      0, count, [&](int64_t d, int64_t n, int i) __attribute__((always_inline)) {
        sums[i] = MulAdd(LoadLanes(a + d, n), LoadLanes(b + d, n), sums[i]);
      });
  return Total(sums);
}

// Σ_d y · dy of one head, which is Σ_j p · dp.
float WeightedGradient(const AttentionProblem& p, const AttentionRows& dy, int64_t row,
                       int64_t column) {
  switch (p.activation) {
    case DType::kBF16:
      return static_cast<float>(
          DotOf(At<BFloat16>(p.y, row, column), At<BFloat16>(dy, row, column), p.d_head));
    case DType::kF16:
      return static_cast<float>(
          DotOf(At<Half>(p.y, row, column), At<Half>(dy, row, column), p.d_head));
    default:
      return static_cast<float>(
          DotOf(At<float>(p.y, row, column), At<float>(dy, row, column), p.d_head));
  }
}

// From a row of scores and of dp to the probabilities p and the scores' gradients p · (dp - mean),
// of which the first `visible` count; the others up to `width` become 0.
ADDER_SIMD void TakeGradients(float* scores, float* dp, int64_t visible, int64_t width,
                              float log_sum, float mean) {
  for (int64_t j = 0; j < width; j += kLanes) {
    F32 probability = Exp2(Load(scores + j) - log_sum);
    F32 gradient = probability * (Load(dp + j) - mean);
    if (j + kLanes > visible) {
      const I32 seen = FirstLanes(Most(0, visible - j));
      probability = Select(seen, probability, Zero());
      gradient = Select(seen, gradient, Zero());
    }
    Store(probability, scores + j);
    Store(gradient, dp + j);
  }
}

void Backward(const AttentionBackwardArguments& a) {
  const AttentionProblem& p = *a.problem;
  const int64_t group = p.heads / p.kv_heads;
  const int64_t d_head = p.d_head;
  const int64_t padded = Padded(d_head);
  const int64_t columns = PaddedToVector(d_head);
  const int64_t key_column = a.kv_head * d_head;
  const int64_t visible = a.keys - a.rows + 1;  // of the first row
  float* dq = a.scratch;
  float* means = dq + Padded(a.rows) * padded;
  float* dkeys = means + Padded(a.rows);
  float* dvalues = dkeys + a.keys * padded;
  float* keys = dvalues + a.keys * padded;  // [kKeys][padded]
  float* keys_across = keys + kKeys * padded;
  float* values_across = keys_across + kKeys * padded;
  float* queries = values_across + kKeys * padded;  // [kKeys][padded]
  float* dy = queries + kKeys * padded;
  float* scores = dy + kKeys * padded;  // [kKeys][kKeys]: rows, keys
  float* gradients = scores + kKeys * kKeys;
  SetZeros(dkeys, 2 * a.keys * padded);

  for (int64_t head = a.kv_head * group; head < (a.kv_head + 1) * group; ++head) {
    const int64_t column = head * d_head;
    SetZeros(dq, Padded(a.rows) * padded);
    for (int64_t i = 0; i < a.rows; ++i) {
      means[i] = WeightedGradient(p, a.dy, a.row + i, column);
    }
    for (int64_t first = 0; first < a.keys; first += kKeys) {
      const int64_t tile_keys = Least(kKeys, a.keys - first);
      Pack(p.keys, p.key, a.first_key + first, key_column, tile_keys, d_head, 1.0f, keys, padded);
      PackColumns(p.keys, p.key, a.first_key + first, key_column, tile_keys, d_head, keys_across,
                  kKeys);
      PackColumns(p.values, p.key, a.first_key + first, key_column, tile_keys, d_head,
                  values_across, kKeys);
      for (int64_t i = Most(0, first - visible + 1); i < a.rows; i += kKeys) {
        const int64_t rows = Least(kKeys, a.rows - i);
        const int64_t seen = Least(tile_keys, visible + i + rows - 1 - first);
        const int64_t width = PaddedToVector(seen);
        Pack(p.q, p.activation, a.row + i, column, rows, d_head, p.scale * kLog2E, queries, padded);
        Pack(a.dy, p.activation, a.row + i, column, rows, d_head, 1.0f, dy, padded);
        BlockProduct<false>(rows, width, d_head, {queries, padded, 1}, keys_across, kKeys, scores,
                            kKeys);
        BlockProduct<false>(rows, width, d_head, {dy, padded, 1}, values_across, kKeys, gradients,
                            kKeys);
        for (int64_t r = 0; r < rows; ++r) {
          TakeGradients(scores + r * kKeys, gradients + r * kKeys, visible + i + r - first, width,
                        p.log_sum_exp[(a.row + i + r) * p.heads + head] * kLog2E, means[i + r]);
        }
        BlockProduct<true>(seen, columns, rows, {scores, 1, kKeys}, dy, padded,
                           dvalues + first * padded, padded);
        BlockProduct<true>(seen, columns, rows, {gradients, 1, kKeys}, queries, padded,
                           dkeys + first * padded, padded);
        BlockProduct<true>(rows, columns, seen, {gradients, kKeys, 1}, keys, padded,
                           dq + i * padded, padded);
      }
    }
    if (a.dq.data != nullptr) {
      Unpack(dq, padded, a.rows, d_head, p.scale, a.dq, p.activation, a.row, column);
    }
  }
  if (a.dkeys.data != nullptr) {
    // The queries were scaled by scale · log₂ e.
    Unpack(dkeys, padded, a.keys, d_head, kLn2, a.dkeys, p.key, a.first_key, key_column);
  }
  if (a.dvalues.data != nullptr) {
    Unpack(dvalues, padded, a.keys, d_head, 1.0f, a.dvalues, p.key, a.first_key, key_column);
  }
}

}  // namespace

void AttentionForward(const AttentionForwardArguments& arguments) { Forward(arguments); }

void AttentionSpan(const AttentionSpanArguments& arguments) {
  VisitActivation(arguments.problem->key, [&](auto type) { Span<decltype(type)>(arguments); });
}

void AttentionMerge(const AttentionMergeArguments& arguments) { Merge(arguments); }

void AttentionBackwardTile(const AttentionBackwardArguments& arguments) { Backward(arguments); }

}  // namespace adder::cpu::ADDER_ISA
