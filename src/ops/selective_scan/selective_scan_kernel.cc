// selective_scan on the CPU. A vector holds one state component of kLanes channels, so that the
// recurrence needs no communication between lanes; B and C are broadcast from memory.
//
// For a tile and a block of channels the forward goes in three steps: what depends on row and
// channel alone (softplus, dt'·x), the recurrence for a few states at a time with everything in
// registers, then skip connection and gate. The backward does the same, but the recurrence also
// leaves decays and states in the cache, for a second sweep backwards in time.
//
// One row alone (decoding) would spend its time on bringing the states into that order and back, so
// there a vector holds the states of one channel.
#include "adder/ops/selective_scan/selective_scan_kernel.h"

#include "adder/backend/cpu/simd.h"

namespace adder::cpu::ADDER_ISA {
namespace {

constexpr int64_t kRows = kScanTileRows;
constexpr float kLn2 = 0.693147181f;
constexpr float kHalfPi = 1.57079633f;

// The channels of a vector: block `block`, lanes from `lane` on.
struct Channels {
  int64_t block;
  int64_t lane;
  int64_t group;
  int64_t begin;  // first channel
  int64_t count;  // 1 to kLanes; lanes from there on are padding
  // Where the next vector's channels begin, from `begin` on; after the last vector, where the first
  // one's begin, in the rows of the next tile.
  int64_t next;
  bool last;
};

// Calls visit(channels) for each vector of the blocks.
template <class Visit>
ADDER_SIMD void ForEachVector(const ScanProblem& p, int64_t block_begin, int64_t block_end,
                              Visit visit) {
  const int64_t group_channels = p.channels / p.groups;
  int64_t first_channel = -1;
  for (int64_t block = block_begin; block < block_end; ++block) {
    const int64_t group = block / p.blocks_per_group;
    const int64_t offset = block % p.blocks_per_group * kScanBlock;
    for (int64_t lane = 0; lane < kScanBlock; lane += kLanes) {
      const int64_t left = group_channels - offset - lane;
      if (left <= 0) break;
      const int64_t begin = group * group_channels + offset + lane;
      if (first_channel < 0) first_channel = begin;
      const int64_t count = left < kLanes ? left : kLanes;
      const bool block_ends = lane + kLanes >= kScanBlock || left <= kLanes;
      const bool last = block_ends && block + 1 == block_end;
      visit(Channels{block, lane, group, begin, count, last ? first_channel - begin : count, last});
    }
  }
}

// ---- Lane arrays --------------------------------------------------------------------------------

// Channels' rows of M components, dense, to a lane array.
void LoadLaneArray(const float* from, int64_t components, int64_t channels, float* to) {
  for (int64_t m = 0; m < components; m += kLanes) {
    const int64_t width = components - m < kLanes ? components - m : kLanes;
    F32 v[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      v[i] = i < channels ? LoadLanes(from + i * components + m, width) : Zero();
    }
    Transpose(v);
    for (int64_t i = 0; i < width; ++i) Store(v[i], to + (m + i) * kScanBlock);
  }
}

void StoreLaneArray(const float* from, int64_t components, int64_t channels, float* to) {
  for (int64_t m = 0; m < components; m += kLanes) {
    const int64_t width = components - m < kLanes ? components - m : kLanes;
    F32 v[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      v[i] = i < width ? Load(from + (m + i) * kScanBlock) : Zero();
    }
    Transpose(v);
    for (int64_t i = 0; i < channels; ++i) {
      StoreLanes(v[i], to + i * components + m, width);
    }
  }
}

void ZeroLaneArray(int64_t components, float* to) {
  for (int64_t m = 0; m < components; ++m) Store(Zero(), to + m * kScanBlock);
}

// ---- Rows ---------------------------------------------------------------------------------------

template <class T>
ADDER_SIMD T* At(const ScanRows& rows, int64_t row, int64_t column) {
  return static_cast<T*>(rows.data) + row * rows.stride + column;
}
ADDER_SIMD F32 LoadOptional(const float* from, const Channels& c) {
  return from != nullptr ? LoadLanes(from + c.begin, c.count) : Zero();
}

// Memory is read a tile's rows deep and one vector wide, which no hardware prefetcher follows: the
// next vector's part of a row is asked for while this one's is used. It is never read here, so it
// may lie past the end.
template <class T>
ADDER_SIMD void PrefetchNext(const ScanRows& rows, int64_t row, int64_t to_next_tile,
                             const Channels& c) {
  const int64_t next_row = c.last ? row + to_next_tile : row;
  const auto address =
      reinterpret_cast<uintptr_t>(rows.data) +
      static_cast<uintptr_t>(next_row * rows.stride + c.begin + c.next) * sizeof(T);
  __builtin_prefetch(reinterpret_cast<const void*>(address), 0, 2);
}
// What will be written at the end of the tile.
template <class T>
ADDER_SIMD void PrefetchForWriting(const ScanRows& rows, int64_t row, const Channels& c) {
  if (rows.data != nullptr) __builtin_prefetch(At<T>(rows, row, c.begin), 1, 2);
}

// A tile's rows of B or C as f32: those of the tensor itself, or a copy.
struct Projection {
  const float* data;
  int64_t stride;
};
template <class T>
ADDER_SIMD void ConvertRows(const ScanRows& from, const ScanTile& tile, int64_t width, float* to) {
  for (int64_t t = 0; t < tile.rows; ++t) {
    const T* row = At<T>(from, tile.row + t, 0);
    for (int64_t i = 0; i < width; i += kLanes) {
      const int64_t n = width - i < kLanes ? width - i : kLanes;
      StoreLanes(LoadLanes(row + i, n), to + t * width + i, n);
    }
  }
}
Projection ProjectionRows(const ScanProblem& p, const ScanRows& from, const ScanTile& tile,
                          float* scratch) {
  const int64_t width = p.groups * p.components;
  switch (p.projection) {
    case DType::kBF16:
      ConvertRows<BFloat16>(from, tile, width, scratch);
      return {scratch, width};
    case DType::kF16:
      ConvertRows<Half>(from, tile, width, scratch);
      return {scratch, width};
    default:
      return {At<float>(from, tile.row, 0), from.stride};
  }
}

// ---- Forward ------------------------------------------------------------------------------------

// What the steps hand each other, one vector a row.
struct ForwardRows {
  float* step;   // dt'
  float* input;  // dt'·x
  float* sum;    // Σ C·h so far
};

// dt' of a row, and what it was made of.
struct Step {
  F32 softplus, slope, step;
};
template <class T>
ADDER_SIMD Step StepOfRow(const ScanProblem& p, int64_t row, const Channels& c, F32 bias) {
  const ValueAndSlope softplus =
      SoftplusWithSlope(LoadLanes(At<T>(p.dt, row, c.begin), c.count) + bias);
  return {softplus.value, softplus.slope,
          p.interval != nullptr ? softplus.value * p.interval[row] : softplus.value};
}

// Advances kStates real states over the tile. `decays` and `states`, where given, take each row's
// decays and the states before it, kStates vectors a row, and the last row's states after it.
template <int kStates, bool kSum, bool kKeep>
ADDER_SIMD void SweepReal(const float* rates, const Projection& B, const Projection& C,
                          int64_t rows, const ForwardRows& r, float* state, float* decays,
                          float* states) {
  F32 rate[kStates], h[kStates];
  for (int k = 0; k < kStates; ++k) {
    rate[k] = Load(rates + k * kScanBlock);
    h[k] = Load(state + k * kScanBlock);
  }
  for (int64_t t = 0; t < rows; ++t) {
    const F32 step = Load(r.step + t * kScanBlock);
    const F32 input = Load(r.input + t * kScanBlock);
    const float* b = B.data + t * B.stride;
    const float* c = C.data + t * C.stride;
    F32 sum = Zero();
    if constexpr (kSum) sum = Load(r.sum + t * kScanBlock);
#pragma GCC unroll 4
    for (int k = 0; k < kStates; ++k) {
      const F32 decay = Exp2(step * rate[k]);
      if constexpr (kKeep) {
        Store(decay, decays + (t * kStates + k) * kLanes);
        Store(h[k], states + (t * kStates + k) * kLanes);
      }
      h[k] = MulAdd(decay, h[k], input * Set(b[k]));
      if constexpr (kSum) sum = MulAdd(h[k], Set(c[k]), sum);
    }
    if constexpr (kSum) Store(sum, r.sum + t * kScanBlock);
  }
  for (int k = 0; k < kStates; ++k) {
    if constexpr (kKeep) Store(h[k], states + (rows * kStates + k) * kLanes);
    Store(h[k], state + k * kScanBlock);
  }
}

// e^(dt'·A) for complex A.
struct ComplexDecay {
  F32 re, im;
};
ADDER_SIMD ComplexDecay DecayOf(F32 step, F32 rate_re, F32 rate_im) {
  const F32 magnitude = Exp2(step * rate_re);
  const SinCos turn = SinCosQuarterTurns(step * rate_im);
  return {magnitude * turn.cos, magnitude * turn.sin};
}

// The same for kStates complex states: re and im are vectors of their own, one after the other.
template <int kStates, bool kSum, bool kKeep>
ADDER_SIMD void SweepComplex(const float* rates, const Projection& B, const Projection& C,
                             int64_t rows, const ForwardRows& r, float* state, float* decays,
                             float* states) {
  F32 rate[2 * kStates], h[2 * kStates];
  for (int k = 0; k < 2 * kStates; ++k) {
    rate[k] = Load(rates + k * kScanBlock);
    h[k] = Load(state + k * kScanBlock);
  }
  for (int64_t t = 0; t < rows; ++t) {
    const F32 step = Load(r.step + t * kScanBlock);
    const F32 input = Load(r.input + t * kScanBlock);
    const float* b = B.data + t * B.stride;
    const float* c = C.data + t * C.stride;
    F32 sum = Zero();
    if constexpr (kSum) sum = Load(r.sum + t * kScanBlock);
#pragma GCC unroll 2
    for (int k = 0; k < 2 * kStates; k += 2) {
      const ComplexDecay decay = DecayOf(step, rate[k], rate[k + 1]);
      const F32 re = h[k], im = h[k + 1];
      if constexpr (kKeep) {
        Store(decay.re, decays + (t * 2 * kStates + k) * kLanes);
        Store(decay.im, decays + (t * 2 * kStates + k + 1) * kLanes);
        Store(re, states + (t * 2 * kStates + k) * kLanes);
        Store(im, states + (t * 2 * kStates + k + 1) * kLanes);
      }
      h[k] = NegMulAdd(decay.im, im, MulAdd(decay.re, re, input * Set(b[k])));
      h[k + 1] = MulAdd(decay.im, re, MulAdd(decay.re, im, input * Set(b[k + 1])));
      if constexpr (kSum) {
        // 2·Re(C·h)
        sum = MulAdd(h[k], Set(2 * c[k]), sum);
        sum = NegMulAdd(h[k + 1], Set(2 * c[k + 1]), sum);
      }
    }
    if constexpr (kSum) Store(sum, r.sum + t * kScanBlock);
  }
  for (int k = 0; k < 2 * kStates; ++k) {
    if constexpr (kKeep) Store(h[k], states + (rows * 2 * kStates + k) * kLanes);
    Store(h[k], state + k * kScanBlock);
  }
}

// Calls visit.template operator()<kStates>(m) for as many states at a time as registers hold, m
// being the first's component.
template <class Visit>
ADDER_SIMD void ForEachStates(const ScanProblem& p, Visit visit) {
  int64_t m = 0;
  if (p.is_complex) {
    for (; m + 4 <= p.components; m += 4) visit.template operator()<2>(m);
    if (m + 2 <= p.components) visit.template operator()<1>(m);
  } else {
    for (; m + 4 <= p.components; m += 4) visit.template operator()<4>(m);
    if (m + 2 <= p.components) {
      visit.template operator()<2>(m);
      m += 2;
    }
    if (m < p.components) visit.template operator()<1>(m);
  }
}

// The states of one vector of channels, over one tile.
void ForwardRecurrence(const ScanProblem& p, const ScanTile& tile, const float* rates,
                       const Projection& B, const Projection& C, const ForwardRows& r,
                       float* state) {
  if (p.is_complex) {
    ForEachStates(
        p, [&]<int kStates>(int64_t m) __attribute__((always_inline)) {
          if constexpr (kStates <= 2) {
            SweepComplex<kStates, true, false>(rates + m * kScanBlock, {B.data + m, B.stride},
                                               {C.data + m, C.stride}, tile.rows, r,
                                               state + m * kScanBlock, nullptr, nullptr);
          }
        });
  } else {
    ForEachStates(
        p, [&]<int kStates>(int64_t m) __attribute__((always_inline)) {
          SweepReal<kStates, true, false>(rates + m * kScanBlock, {B.data + m, B.stride},
                                          {C.data + m, C.stride}, tile.rows, r,
                                          state + m * kScanBlock, nullptr, nullptr);
        });
  }
}

template <class T>
void ForwardTile(const ScanForwardArguments& a, const ScanTile& tile) {
  const ScanProblem& p = *a.problem;
  const ForwardRows r = {a.scratch, a.scratch + kRows * kScanBlock,
                         a.scratch + 2 * kRows * kScanBlock};
  float* const projections = a.scratch + 3 * kRows * kScanBlock;
  const Projection B = ProjectionRows(p, p.B, tile, projections);
  const Projection C = ProjectionRows(p, p.C, tile, projections + kRows * p.groups * p.components);
  const int64_t state_size = p.channels * p.components;  // floats of a sequence's states
  const bool gate = p.z.data != nullptr;

  ForEachVector(p, a.block_begin, a.block_end, [&](const Channels& c) {
    const int64_t lane_array = c.block * p.components * kScanBlock + c.lane;
    float* const state = a.state + lane_array;
    if (tile.first) {
      if (p.h0 != nullptr) {
        LoadLaneArray(p.h0 + tile.sequence * state_size + c.begin * p.components, p.components,
                      c.count, state);
      } else {
        ZeroLaneArray(p.components, state);
      }
    }
    if (a.chunk_states != nullptr) {
      StoreLaneArray(state, p.components, c.count,
                     a.chunk_states + tile.chunk * state_size + c.begin * p.components);
    }

    const F32 bias = LoadOptional(p.dt_bias, c);
    for (int64_t t = 0; t < tile.rows; ++t) {
      const int64_t row = tile.row + t;
      PrefetchNext<T>(p.x, row, tile.rows, c);
      PrefetchNext<T>(p.dt, row, tile.rows, c);
      if (gate) PrefetchNext<T>(p.z, row, tile.rows, c);
      PrefetchForWriting<T>(a.y, row, c);
      const F32 x = LoadLanes(At<T>(p.x, row, c.begin), c.count);
      const F32 step = StepOfRow<T>(p, row, c, bias).step;
      Store(step, r.step + t * kScanBlock);
      Store(step * x, r.input + t * kScanBlock);
      Store(Zero(), r.sum + t * kScanBlock);
    }

    const int64_t column = c.group * p.components;
    ForwardRecurrence(p, tile, p.rates + lane_array, {B.data + column, B.stride},
                      {C.data + column, C.stride}, r, state);

    const F32 skip = LoadOptional(p.D, c);
    for (int64_t t = 0; t < tile.rows; ++t) {
      const F32 x = LoadLanes(At<T>(p.x, tile.row + t, c.begin), c.count);
      F32 y = MulAdd(skip, x, Load(r.sum + t * kScanBlock));
      if (gate) y = y * Silu(LoadLanes(At<T>(p.z, tile.row + t, c.begin), c.count));
      StoreLanes(y, At<T>(a.y, tile.row + t, c.begin), c.count);
    }
    if (tile.last && a.hT != nullptr) {
      StoreLaneArray(state, p.components, c.count,
                     a.hT + tile.sequence * state_size + c.begin * p.components);
    }
  });
}

// ---- One row ------------------------------------------------------------------------------------

// Rows of a vector's channels, `components` floats each.
struct ChannelStates {
  const float* A;
  const float* h0;  // null: 0
  float* hT;        // may be null
  int64_t components;
};
// Advances components [m, m + width) of channel i.
ADDER_SIMD F32 Advance(const ChannelStates& s, int64_t i, int64_t m, int64_t width, float step,
                       float input, F32 B) {
  const int64_t at = i * s.components + m;
  const F32 decay = Exp2(Set(step) * (LoadLanes(s.A + at, width) * (1 / kLn2)));
  const F32 before = s.h0 != nullptr ? LoadLanes(s.h0 + at, width) : Zero();
  const F32 h = MulAdd(decay, before, Set(input) * B);
  if (s.hT != nullptr) StoreLanes(h, s.hT + at, width);
  return h;
}

// A tile of one row that is all of its sequence. Sums are formed as in the recurrence, in the order
// of the states, for which the new states are transposed.
template <class T>
void ForwardStep(const ScanForwardArguments& a, const ScanTile& tile) {
  const ScanProblem& p = *a.problem;
  const int64_t row = tile.row;
  float* const projections = a.scratch;
  const Projection B = ProjectionRows(p, p.B, tile, projections);
  const Projection C = ProjectionRows(p, p.C, tile, projections + p.groups * p.components);
  const int64_t sequence = tile.sequence * p.channels * p.components;

  ForEachVector(p, a.block_begin, a.block_end, [&](const Channels& c) {
    const F32 x = LoadLanes(At<T>(p.x, row, c.begin), c.count);
    const F32 step = StepOfRow<T>(p, row, c, LoadOptional(p.dt_bias, c)).step;
    float steps[kLanes], inputs[kLanes];
    Store(step, steps);
    Store(step * x, inputs);
    const int64_t first = c.begin * p.components;
    const ChannelStates states = {p.A + first, p.h0 != nullptr ? p.h0 + sequence + first : nullptr,
                                  a.hT != nullptr ? a.hT + sequence + first : nullptr,
                                  p.components};
    const float* b = B.data + c.group * p.components;
    const float* cc = C.data + c.group * p.components;
    F32 sum = Zero();
    for (int64_t m = 0; m < p.components; m += kLanes) {
      const int64_t width = p.components - m < kLanes ? p.components - m : kLanes;
      const F32 B_m = LoadLanes(b + m, width);
      F32 h[kLanes];
      if (c.count == kLanes && width == kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          h[i] = Advance(states, i, m, kLanes, steps[i], inputs[i], B_m);
        }
      } else {
        for (int i = 0; i < kLanes; ++i) {
          h[i] = i < c.count ? Advance(states, i, m, width, steps[i], inputs[i], B_m) : Zero();
        }
      }
      Transpose(h);
      if (width == kLanes) {
#pragma GCC unroll 16
        for (int n = 0; n < kLanes; ++n) sum = MulAdd(h[n], Set(cc[m + n]), sum);
      } else {
        for (int n = 0; n < width; ++n) sum = MulAdd(h[n], Set(cc[m + n]), sum);
      }
    }
    F32 y = MulAdd(LoadOptional(p.D, c), x, sum);
    if (p.z.data != nullptr) y = y * Silu(LoadLanes(At<T>(p.z, row, c.begin), c.count));
    StoreLanes(y, At<T>(a.y, row, c.begin), c.count);
  });
}

template <class T>
void Forward(const ScanForwardArguments& a, const ScanTile& tile) {
  if (tile.step) {
    ForwardStep<T>(a, tile);
  } else {
    ForwardTile<T>(a, tile);
  }
}

// ---- Backward -----------------------------------------------------------------------------------

struct BackwardRows {
  float* softplus;
  float* slope;    // of the softplus
  float* step;     // dt'
  float* input;    // dt'·x
  float* dy;       // before the gate
  float* d_input;  // Σ dh·B, the gradient of dt'·x
  float* d_step;   // what the decays contribute to the gradient of dt'
  float* sum;      // Σ C·h, where the gate's gradient needs it
};

// Adds up kCount vectors' lanes a little: into as many vectors as their sums need at least.
template <int kCount>
ADDER_SIMD void AccumulateFolded(F32* v, float* to) {
  constexpr int kGroup = kCount < kLanes ? kCount : kLanes;
  for (int g = 0; g < kCount / kGroup; ++g) {
    Store(Load(to + g * kLanes) + FoldSums<kGroup>(v + g * kGroup), to + g * kLanes);
  }
}
// Adds sum number i of kCount to to[i · stride].
template <int kCount>
ADDER_SIMD float FoldedSum(const float* folded, int i) {
  constexpr int kGroup = kCount < kLanes ? kCount : kLanes;
  constexpr int kParts = kLanes / kGroup;
  float sum = 0;
  for (int part = 0; part < kParts; ++part) sum += folded[i * kParts + part];
  return sum;
}

// The way back over the tile for kStates real states: dh carries the gradient of the states after
// the last row to that of the states before the first. `sums` collects what each row adds to dC,
// then to dB, kScanBlock floats a row.
template <int kStates>
ADDER_SIMD void SweepBackReal(const float* rates, const Projection& B, const Projection& C,
                              int64_t rows, const BackwardRows& r, const float* decays,
                              const float* states, float* dh_memory, float* dA_memory,
                              float* sums) {
  F32 A[kStates], dh[kStates], dA[kStates];
  for (int k = 0; k < kStates; ++k) {
    A[k] = Load(rates + k * kScanBlock) * kLn2;
    dh[k] = Load(dh_memory + k * kScanBlock);
    dA[k] = Load(dA_memory + k * kScanBlock);
  }
  for (int64_t t = rows - 1; t >= 0; --t) {
    const F32 step = Load(r.step + t * kScanBlock);
    const F32 input = Load(r.input + t * kScanBlock);
    const F32 dy = Load(r.dy + t * kScanBlock);
    F32 d_input = Load(r.d_input + t * kScanBlock);
    F32 d_step = Load(r.d_step + t * kScanBlock);
    const float* b = B.data + t * B.stride;
    const float* c = C.data + t * C.stride;
    const float* before = states + t * kStates * kLanes;
    const float* after = before + kStates * kLanes;
    const float* decay = decays + t * kStates * kLanes;
    F32 products[2 * kStates];
#pragma GCC unroll 4
    for (int k = 0; k < kStates; ++k) {
      dh[k] = MulAdd(dy, Set(c[k]), dh[k]);
      products[k] = dy * Load(after + k * kLanes);
      products[kStates + k] = input * dh[k];
      d_input = MulAdd(dh[k], Set(b[k]), d_input);
      dh[k] = dh[k] * Load(decay + k * kLanes);
      const F32 d_exponent = dh[k] * Load(before + k * kLanes);  // of dt'·A
      d_step = MulAdd(d_exponent, A[k], d_step);
      dA[k] = MulAdd(d_exponent, step, dA[k]);
    }
    Store(d_input, r.d_input + t * kScanBlock);
    Store(d_step, r.d_step + t * kScanBlock);
    AccumulateFolded<2 * kStates>(products, sums + t * kScanBlock);
  }
  for (int k = 0; k < kStates; ++k) {
    Store(dh[k], dh_memory + k * kScanBlock);
    Store(dA[k], dA_memory + k * kScanBlock);
  }
}

// The same for complex states; gradients are re + i·im, so that of a factor is the product's times
// the other factor's conjugate.
template <int kStates>
ADDER_SIMD void SweepBackComplex(const float* rates, const Projection& B, const Projection& C,
                                 int64_t rows, const BackwardRows& r, const float* decays,
                                 const float* states, float* dh_memory, float* dA_memory,
                                 float* sums) {
  constexpr int kParts = 2 * kStates;
  F32 A[kParts], dh[kParts], dA[kParts];
  for (int k = 0; k < kParts; ++k) {
    A[k] = Load(rates + k * kScanBlock) * (k % 2 == 0 ? kLn2 : kHalfPi);
    dh[k] = Load(dh_memory + k * kScanBlock);
    dA[k] = Load(dA_memory + k * kScanBlock);
  }
  for (int64_t t = rows - 1; t >= 0; --t) {
    const F32 step = Load(r.step + t * kScanBlock);
    const F32 input = Load(r.input + t * kScanBlock);
    const F32 dy = 2.0f * Load(r.dy + t * kScanBlock);
    F32 d_input = Load(r.d_input + t * kScanBlock);
    F32 d_step = Load(r.d_step + t * kScanBlock);
    const float* b = B.data + t * B.stride;
    const float* c = C.data + t * C.stride;
    const float* before = states + t * kParts * kLanes;
    const float* after = before + kParts * kLanes;
    const float* decay = decays + t * kParts * kLanes;
    F32 products[2 * kParts];
#pragma GCC unroll 2
    for (int k = 0; k < kParts; k += 2) {
      const F32 g_re = MulAdd(dy, Set(c[k]), dh[k]);
      const F32 g_im = NegMulAdd(dy, Set(c[k + 1]), dh[k + 1]);
      products[k] = dy * Load(after + k * kLanes);
      products[k + 1] = -dy * Load(after + (k + 1) * kLanes);
      products[kParts + k] = input * g_re;
      products[kParts + k + 1] = input * g_im;
      d_input = MulAdd(g_im, Set(b[k + 1]), MulAdd(g_re, Set(b[k]), d_input));
      const F32 decay_re = Load(decay + k * kLanes);
      const F32 decay_im = Load(decay + (k + 1) * kLanes);
      dh[k] = MulAdd(g_re, decay_re, g_im * decay_im);
      dh[k + 1] = NegMulAdd(g_re, decay_im, g_im * decay_re);
      const F32 h_re = Load(before + k * kLanes);
      const F32 h_im = Load(before + (k + 1) * kLanes);
      const F32 e_re = MulAdd(dh[k], h_re, dh[k + 1] * h_im);
      const F32 e_im = NegMulAdd(dh[k], h_im, dh[k + 1] * h_re);
      d_step = MulAdd(e_im, A[k + 1], MulAdd(e_re, A[k], d_step));
      dA[k] = MulAdd(e_re, step, dA[k]);
      dA[k + 1] = MulAdd(e_im, step, dA[k + 1]);
    }
    Store(d_input, r.d_input + t * kScanBlock);
    Store(d_step, r.d_step + t * kScanBlock);
    AccumulateFolded<2 * kParts>(products, sums + t * kScanBlock);
  }
  for (int k = 0; k < kParts; ++k) {
    Store(dh[k], dh_memory + k * kScanBlock);
    Store(dA[k], dA_memory + k * kScanBlock);
  }
}

// Memory of the recurrence's two sweeps.
struct BackwardMemory {
  float* decays;
  float* states;
  float* state;  // a lane array: h at the tile's start, then at its end
  float* sums;   // of dC and dB, kRows · kScanBlock floats for every group of states
};

// States at a time. Every such group of states has a number, for its sums.
template <bool kSum>
void BackwardRecurrence(const ScanProblem& p, const ScanTile& tile, const float* rates,
                        const Projection& B, const Projection& C, const BackwardRows& r,
                        const BackwardMemory& memory, float* dh, float* dA) {
  const ForwardRows forward = {r.step, r.input, r.sum};
  float* sums = memory.sums;
  if (p.is_complex) {
    ForEachStates(
        p, [&]<int kStates>(int64_t m) __attribute__((always_inline)) {
          if constexpr (kStates <= 2) {
            const Projection b = {B.data + m, B.stride};
            const Projection c = {C.data + m, C.stride};
            const int64_t at = m * kScanBlock;
            SweepComplex<kStates, kSum, true>(rates + at, b, c, tile.rows, forward,
                                              memory.state + at, memory.decays, memory.states);
            SweepBackComplex<kStates>(rates + at, b, c, tile.rows, r, memory.decays, memory.states,
                                      dh + at, dA + at, sums);
            sums += kRows * kScanBlock;
          }
        });
  } else {
    ForEachStates(
        p, [&]<int kStates>(int64_t m) __attribute__((always_inline)) {
          const Projection b = {B.data + m, B.stride};
          const Projection c = {C.data + m, C.stride};
          const int64_t at = m * kScanBlock;
          SweepReal<kStates, kSum, true>(rates + at, b, c, tile.rows, forward, memory.state + at,
                                         memory.decays, memory.states);
          SweepBackReal<kStates>(rates + at, b, c, tile.rows, r, memory.decays, memory.states,
                                 dh + at, dA + at, sums);
          sums += kRows * kScanBlock;
        });
  }
}

// Adds the collected sums of a channel group to dB and dC, and clears them.
void FlushSums(const ScanBackwardArguments& a, const ScanTile& tile, int64_t group, float* sums) {
  const ScanProblem& p = *a.problem;
  const int64_t width = p.groups * p.components;
  const int64_t first = (tile.row - a.tiles[0].row) * width + group * p.components;
  const auto flush = [&]<int kParts>(int64_t m) __attribute__((always_inline)) {
    for (int64_t t = 0; t < tile.rows; ++t) {
      for (int k = 0; k < kParts; ++k) {
        a.dC[first + t * width + m + k] += FoldedSum<2 * kParts>(sums + t * kScanBlock, k);
        a.dB[first + t * width + m + k] += FoldedSum<2 * kParts>(sums + t * kScanBlock, kParts + k);
      }
      for (int64_t i = 0; i < kScanBlock; i += kLanes) Store(Zero(), sums + t * kScanBlock + i);
    }
    sums += kRows * kScanBlock;
  };
  ForEachStates(
      p, [&]<int kStates>(int64_t m) __attribute__((always_inline)) {
        if (p.is_complex) {
          if constexpr (kStates <= 2) flush.template operator()<2 * kStates>(m);
        } else {
          flush.template operator()<kStates>(m);
        }
      });
}

template <class T>
void BackwardTile(const ScanBackwardArguments& a, const ScanTile& tile) {
  const ScanProblem& p = *a.problem;
  float* free = a.scratch;
  const auto take = [&](int64_t floats) {
    float* const memory = free;
    free += floats;
    return memory;
  };
  constexpr int64_t kRowArray = kRows * kScanBlock;
  const BackwardRows r = {take(kRowArray), take(kRowArray), take(kRowArray), take(kRowArray),
                          take(kRowArray), take(kRowArray), take(kRowArray), take(kRowArray)};
  const BackwardMemory memory = {take(4 * kRowArray), take(4 * (kRowArray + kScanBlock)),
                                 take(p.components * kScanBlock),
                                 take((p.components / 4 + 2) * kRowArray)};
  float* const projections = take(2 * kRows * p.groups * p.components);
  const Projection B = ProjectionRows(p, p.B, tile, projections);
  const Projection C = ProjectionRows(p, p.C, tile, projections + kRows * p.groups * p.components);
  const int64_t state_size = p.channels * p.components;
  const bool gate = p.z.data != nullptr;
  const bool sum = a.dz.data != nullptr;
  for (int64_t i = 0; i < (p.components / 4 + 2) * kRowArray; i += kLanes) {
    Store(Zero(), memory.sums + i);
  }

  int64_t group = -1;
  ForEachVector(p, a.block_begin, a.block_end, [&](const Channels& c) {
    if (group != c.group) {
      if (group >= 0) FlushSums(a, tile, group, memory.sums);
      group = c.group;
    }
    const int64_t lane_array = c.block * p.components * kScanBlock + c.lane;
    float* const dh = a.state + lane_array;
    if (tile.last) {
      if (a.dhT != nullptr) {
        LoadLaneArray(a.dhT + tile.sequence * state_size + c.begin * p.components, p.components,
                      c.count, dh);
      } else {
        ZeroLaneArray(p.components, dh);
      }
    }
    LoadLaneArray(a.chunk_states + tile.chunk * state_size + c.begin * p.components, p.components,
                  c.count, memory.state);

    const F32 bias = LoadOptional(p.dt_bias, c);
    for (int64_t t = 0; t < tile.rows; ++t) {
      const int64_t row = tile.row + t;
      PrefetchNext<T>(p.x, row, -kRows, c);
      PrefetchNext<T>(p.dt, row, -kRows, c);
      PrefetchNext<T>(a.dy, row, -kRows, c);
      if (gate) PrefetchNext<T>(p.z, row, -kRows, c);
      PrefetchForWriting<T>(a.dx, row, c);
      PrefetchForWriting<T>(a.ddt, row, c);
      PrefetchForWriting<T>(a.dz, row, c);
      const F32 x = LoadLanes(At<T>(p.x, row, c.begin), c.count);
      const Step step = StepOfRow<T>(p, row, c, bias);
      Store(step.softplus, r.softplus + t * kScanBlock);
      Store(step.slope, r.slope + t * kScanBlock);
      Store(step.step, r.step + t * kScanBlock);
      Store(step.step * x, r.input + t * kScanBlock);
      F32 d_sum = LoadLanes(At<T>(a.dy, row, c.begin), c.count);
      if (gate) d_sum = d_sum * Silu(LoadLanes(At<T>(p.z, row, c.begin), c.count));
      Store(d_sum, r.dy + t * kScanBlock);
      Store(Zero(), r.d_input + t * kScanBlock);
      Store(Zero(), r.d_step + t * kScanBlock);
      Store(Zero(), r.sum + t * kScanBlock);
    }

    const int64_t column = c.group * p.components;
    const Projection b = {B.data + column, B.stride};
    const Projection cc = {C.data + column, C.stride};
    if (sum) {
      BackwardRecurrence<true>(p, tile, p.rates + lane_array, b, cc, r, memory, dh,
                               a.dA + lane_array);
    } else {
      BackwardRecurrence<false>(p, tile, p.rates + lane_array, b, cc, r, memory, dh,
                                a.dA + lane_array);
    }

    const F32 skip = LoadOptional(p.D, c);
    F32 dD = Load(a.dD + c.block * kScanBlock + c.lane);
    F32 d_bias = Load(a.d_dt_bias + c.block * kScanBlock + c.lane);
    for (int64_t t = 0; t < tile.rows; ++t) {
      const int64_t row = tile.row + t;
      // All that is read, before anything is written over it.
      const F32 x = LoadLanes(At<T>(p.x, row, c.begin), c.count);
      const F32 z = sum ? LoadLanes(At<T>(p.z, row, c.begin), c.count) : Zero();
      const F32 dy = sum ? LoadLanes(At<T>(a.dy, row, c.begin), c.count) : Zero();
      const F32 d_sum = Load(r.dy + t * kScanBlock);
      const F32 d_input = Load(r.d_input + t * kScanBlock);
      const F32 d_step = MulAdd(d_input, x, Load(r.d_step + t * kScanBlock));
      F32 ddt = d_step * Load(r.slope + t * kScanBlock);
      if (p.interval != nullptr) ddt = ddt * p.interval[row];
      d_bias = d_bias + ddt;
      dD = MulAdd(d_sum, x, dD);
      if (a.ddt.data != nullptr) StoreLanes(ddt, At<T>(a.ddt, row, c.begin), c.count);
      if (a.dx.data != nullptr) {
        const F32 dx = MulAdd(d_input, Load(r.step + t * kScanBlock), d_sum * skip);
        StoreLanes(dx, At<T>(a.dx, row, c.begin), c.count);
      }
      if (a.d_interval != nullptr) {
        a.d_interval[row - a.tiles[0].row] += ReduceSum(d_step * Load(r.softplus + t * kScanBlock));
      }
      if (sum) {
        const F32 y = MulAdd(skip, x, Load(r.sum + t * kScanBlock));
        StoreLanes(dy * y * SiluWithSlope(z).slope, At<T>(a.dz, row, c.begin), c.count);
      }
    }
    Store(dD, a.dD + c.block * kScanBlock + c.lane);
    Store(d_bias, a.d_dt_bias + c.block * kScanBlock + c.lane);
    if (tile.first && a.dh0 != nullptr) {
      StoreLaneArray(dh, p.components, c.count,
                     a.dh0 + tile.sequence * state_size + c.begin * p.components);
    }
  });
  if (group >= 0) FlushSums(a, tile, group, memory.sums);
}

}  // namespace

void ScanRates(const ScanRatesArguments& a) {
  const ScanProblem& p = *a.problem;
  ForEachVector(p, a.block_begin, a.block_end, [&](const Channels& c) {
    float* const rates = a.rates + c.block * p.components * kScanBlock + c.lane;
    LoadLaneArray(p.A + c.begin * p.components, p.components, c.count, rates);
    for (int64_t m = 0; m < p.components; ++m) {
      const bool imaginary = p.is_complex && m % 2 == 1;
      float* const rate = rates + m * kScanBlock;
      Store(Load(rate) * (imaginary ? 1 / kHalfPi : 1 / kLn2), rate);
    }
  });
}

void ScanForward(const ScanForwardArguments& a) {
  for (int64_t i = 0; i < a.tile_count; ++i) {
    VisitActivation(a.problem->activation,
                    [&](auto type) { Forward<decltype(type)>(a, a.tiles[i]); });
  }
}

void ScanBackward(const ScanBackwardArguments& a) {
  for (int64_t i = a.tile_count - 1; i >= 0; --i) {
    VisitActivation(a.problem->activation,
                    [&](auto type) { BackwardTile<decltype(type)>(a, a.tiles[i]); });
  }
}

}  // namespace adder::cpu::ADDER_ISA
