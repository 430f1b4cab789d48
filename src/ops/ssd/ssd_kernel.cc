// ssd on the CPU. With a[t] the sum of dt'·A up to row t of a chunk, the chunk's rows are
//     y[t] = Σ_{s ≤ t} (C[t]·B[s]) · e^(a[t] - a[s]) · dt'[s] · x[s]  +  e^a[t] · C[t]·h
// where h is the state before the chunk, and the state after it is
//     e^a[last] · h  +  Σ_s e^(a[last] - a[s]) · dt'[s] · B[s] ⊗ x[s]:
// products of matrices of the chunk's rows, C·B of which is the same for all heads of a group. In
// the forward states are kept with channels in rows' direction, [states][head_dim].
#include "adder/ops/ssd/ssd_kernel.h"

#include "adder/backend/cpu/block_product.h"
#include "adder/backend/cpu/vector_loop.h"

namespace adder::cpu::ADDER_ISA {
namespace {

constexpr int64_t kRows = kSsdTileRows;
constexpr double kLog2E = 1.4426950408889634;

ADDER_SIMD int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
// The end of the block of kTileRows rows that holds row t: of a triangular matrix the columns up to
// there are used.
ADDER_SIMD int64_t BlockEnd(int64_t t, int64_t rows) {
  return Least(rows, (t / kTileRows + 1) * kTileRows);
}

ADDER_SIMD float LoadAny(const SsdRows& rows, DType dtype, int64_t row, int64_t column) {
  switch (dtype) {
    case DType::kBF16:
      return LoadScalar(At<BFloat16>(rows, row, column));
    case DType::kF16:
      return LoadScalar(At<Half>(rows, row, column));
    default:
      return *At<float>(rows, row, column);
  }
}
ADDER_SIMD void StoreAny(float value, const SsdRows& rows, DType dtype, int64_t row,
                         int64_t column) {
  switch (dtype) {
    case DType::kBF16:
      return StoreScalar(value, At<BFloat16>(rows, row, column));
    case DType::kF16:
      return StoreScalar(value, At<Half>(rows, row, column));
    default:
      *At<float>(rows, row, column) = value;
  }
}

// softplus, limited, and its derivative, 0 where the limits act. NaN stays NaN. Without interval.
ADDER_SIMD ValueAndSlope LimitedSoftplus(const SsdProblem& p, F32 raw) {
  const ValueAndSlope softplus = SoftplusWithSlope(raw);
  const F32 least = Set(p.dt_min);
  const F32 most = Set(p.dt_max);
  const I32 outside = (softplus.value < least) | (softplus.value > most);
  return {Max(least, Min(most, softplus.value)), Select(outside, Zero(), softplus.slope)};
}

// What depends on row and head alone.
struct Steps {
  float step[kRows];        // dt'
  float slope[kRows];       // its derivative with respect to dt
  float softplus[kRows];    // limited: its derivative with respect to interval
  double sum[kRows];        // of dt'·A up to this row, times log₂ e
  float from_start[kRows];  // 2^sum
  float to_end[kRows];      // 2^(the last row's sum - sum)
};

void LoadSteps(const SsdProblem& p, int64_t row, int64_t rows, int64_t head, Steps* steps) {
  alignas(64) float raw[kRows] = {};
  alignas(64) float interval[kRows] = {};
  const float bias = p.dt_bias != nullptr ? p.dt_bias[head] : 0.0f;
  for (int64_t t = 0; t < rows; ++t) {
    raw[t] = LoadAny(p.dt, p.activation, row + t, head) + bias;
    interval[t] = p.interval != nullptr ? p.interval[row + t] : 1.0f;
  }
  for (int64_t t = 0; t < rows; t += kLanes) {
    const ValueAndSlope softplus = LimitedSoftplus(p, Load(raw + t));
    const F32 factor = Load(interval + t);
    Store(softplus.value * factor, steps->step + t);
    Store(softplus.slope * factor, steps->slope + t);
    Store(softplus.value, steps->softplus + t);
  }
  const double rate = static_cast<double>(p.A[head]) * kLog2E;
  double sum = 0;
  for (int64_t t = 0; t < kRows; ++t) {
    if (t < rows) sum += static_cast<double>(steps->step[t]) * rate;
    steps->sum[t] = sum;
  }
  alignas(64) float exponents[kRows];
  for (int64_t t = 0; t < kRows; ++t) exponents[t] = static_cast<float>(steps->sum[t]);
  for (int64_t t = 0; t < rows; t += kLanes) {
    Store(Exp2(Load(exponents + t)), steps->from_start + t);
  }
  for (int64_t t = 0; t < kRows; ++t) exponents[t] = static_cast<float>(sum - steps->sum[t]);
  for (int64_t t = 0; t < rows; t += kLanes) Store(Exp2(Load(exponents + t)), steps->to_end + t);
}

// Calls visit(s, decay) for each vector of rows s up to BlockEnd: what is left at row t of row s's
// input, 2^(sum[t] - sum[s]), 0 where s > t. Differences are formed in double: sums may be large
// where they are small.
template <class Visit>
ADDER_SIMD void ForEachDecay(const Steps& steps, int64_t t, int64_t rows, const Visit& visit) {
  const int64_t end = BlockEnd(t, rows);
  for (int64_t s = 0; s < end; s += kLanes) {
    alignas(64) float exponents[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      exponents[i] = static_cast<float>(steps.sum[t] - steps.sum[s + i]);
    }
    F32 decay = Exp2(Load(exponents));
    if (s + kLanes > t + 1) {
      decay = Select(FirstLanes(t + 1 > s ? t + 1 - s : 0), decay, Zero());
    }
    visit(s, decay);
  }
}

// result[t][s] = a[t]·b[s] for s up to t and to the end of t's block; b is given across,
// [depth][s].
void MultiplyTriangle(int64_t rows, int64_t depth, const float* a, int64_t a_stride,
                      const float* b_across, float* result) {
  for (int64_t t = 0; t < rows; t += kTileRows) {
    const int64_t end = BlockEnd(t, rows);
    BlockProduct<false>(end - t, PaddedToVector(end), depth, {a + t * a_stride, a_stride, 1},
                        b_across, kRows, result + t * kRows, kRows);
  }
}

// result[t] += Σ_{s ≤ t} triangle[t][s] · rows_of[s]
void AddLower(const float* triangle, int64_t rows, const float* rows_of, int64_t columns,
              float* result) {
  const int64_t stride = Padded(columns);
  for (int64_t t = 0; t < rows; t += kTileRows) {
    const int64_t end = BlockEnd(t, rows);
    BlockProduct<true>(end - t, PaddedToVector(columns), end, {triangle + t * kRows, kRows, 1},
                       rows_of, stride, result + t * stride, stride);
  }
}

// result[s] += Σ_{t ≥ s} triangle[t][s] · rows_of[t]
void AddUpper(const float* triangle, int64_t rows, const float* rows_of, int64_t columns,
              float* result) {
  const int64_t stride = Padded(columns);
  for (int64_t s = 0; s < rows; s += kTileRows) {
    BlockProduct<true>(BlockEnd(s, rows) - s, PaddedToVector(columns), rows - s,
                       {triangle + s * kRows + s, 1, kRows}, rows_of + s * stride, stride,
                       result + s * stride, stride);
  }
}

// to[i] = factor · from[i]; `count` is rounded up to a vector.
ADDER_SIMD void ScaleRow(const float* from, float factor, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += kLanes) Store(Load(from + i) * factor, to + i);
}
// to[i] += factor · from[i]
ADDER_SIMD void AddRow(const float* from, float factor, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Store(MulAdd(Load(from + i), Set(factor), Load(to + i)), to + i);
  }
}
// Σ a[i] · b[i]
ADDER_SIMD double DotRow(const float* a, const float* b, int64_t count) {
  F32 sums[4] = {};
  ForEachVector(
      0, count, [&](int64_t i, int64_t n, int k) __attribute__((always_inline)) {
        sums[k] = MulAdd(LoadLanes(a + i, n), LoadLanes(b + i, n), sums[k]);
      });
  return Total(sums);
}

ADDER_SIMD int64_t StateOffset(const SsdProblem& p, int64_t index, int64_t head) {
  return (index * p.heads + head) * p.head_dim * p.states;
}

// ---- Forward ------------------------------------------------------------------------------------

void Forward(const SsdForwardArguments& a) {
  const SsdProblem& p = *a.problem;
  const SsdPart& part = a.part;
  const int64_t P = p.head_dim;
  const int64_t N = p.states;
  const int64_t P_stride = Padded(P);
  const int64_t N_stride = Padded(N);
  float* B = a.scratch;
  float* C = B + kRows * N_stride;
  float* B_across = C + kRows * N_stride;
  float* x = B_across + kRows * N_stride;
  float* weighted_x = x + kRows * P_stride;
  float* y = weighted_x + kRows * P_stride;
  float* CB = y + kRows * P_stride;
  float* weights = CB + kRows * kRows;
  float* natural = weights + kRows * kRows;  // a state as [head_dim][states]
  float* states = natural + P * N_stride;    // a head's as [states][head_dim]
  const int64_t state_size = N_stride * P_stride;

  for (int64_t head = part.head_begin; head < part.head_end; ++head) {
    float* state = states + (head - part.head_begin) * state_size;
    if (a.h0 != nullptr) {
      PackTransposed(a.h0 + StateOffset(p, part.sequence, head), N, P, N, state, P_stride);
    } else {
      SetZeros(state, N * P_stride);
    }
  }
  const auto store_state = [&](const float* state, float* to) {
    PackTransposed(state, P_stride, N, P, natural, N_stride);
    UnpackRows(natural, N_stride, P, N, 1.0f, to, N);
  };

  for (int64_t first = 0; first < part.rows; first += kRows) {
    const int64_t row = part.row + first;
    const int64_t rows = Least(kRows, part.rows - first);
    const int64_t column = part.group * N;
    Pack(p.B, p.activation, row, column, rows, N, 1.0f, B, N_stride);
    Pack(p.C, p.activation, row, column, rows, N, 1.0f, C, N_stride);
    PackTransposed(static_cast<const float*>(B), N_stride, rows, N, B_across, kRows);
    MultiplyTriangle(rows, N, C, N_stride, B_across, CB);
    for (int64_t head = part.head_begin; head < part.head_end; ++head) {
      float* state = states + (head - part.head_begin) * state_size;
      if (a.chunk_states != nullptr) {
        store_state(state, a.chunk_states + StateOffset(p, part.chunk + first / kRows, head));
      }
      Steps steps;
      LoadSteps(p, row, rows, head, &steps);
      Pack(p.x, p.activation, row, head * P, rows, P, 1.0f, x, P_stride);
      for (int64_t t = 0; t < rows; ++t) {
        ForEachDecay(
            steps, t, rows, [&](int64_t s, F32 decay) __attribute__((always_inline)) {
              Store(Load(CB + t * kRows + s) * decay * Load(steps.step + s),
                    weights + t * kRows + s);
            });
      }
      BlockProduct<false>(rows, PaddedToVector(P), N, {C, N_stride, 1}, state, P_stride, y,
                          P_stride);
      const float skip = p.D != nullptr ? p.D[head] : 0.0f;
      for (int64_t t = 0; t < rows; ++t) {
        ScaleRow(y + t * P_stride, steps.from_start[t], P, y + t * P_stride);
        if (p.D != nullptr) AddRow(x + t * P_stride, skip, P, y + t * P_stride);
        ScaleRow(x + t * P_stride, steps.step[t] * steps.to_end[t], P_stride,
                 weighted_x + t * P_stride);
      }
      AddLower(weights, rows, x, P, y);
      Unpack(y, P_stride, rows, P, 1.0f, a.y, p.activation, row, head * P);
      ScaleRow(state, steps.from_start[rows - 1], N * P_stride, state);
      BlockProduct<true>(N, PaddedToVector(P), rows, {B, 1, N_stride}, weighted_x, P_stride, state,
                         P_stride);
    }
  }
  if (a.hT == nullptr) return;
  for (int64_t head = part.head_begin; head < part.head_end; ++head) {
    store_state(states + (head - part.head_begin) * state_size,
                a.hT + StateOffset(p, part.sequence, head));
  }
}

// kLanes channels of a row's new state; returns their y in lanes.
template <bool kFirst>
ADDER_SIMD F32 StepChannels(const float* B, const float* C, const float* weighted_x, float decay,
                            int64_t channels, int64_t N, const float* h0, float* hT) {
  F32 sums[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    sums[i] = Zero();
    if (i >= channels) continue;
    const F32 x = Set(weighted_x[i]);
    F32 sum = Zero();
    for (int64_t n = 0; n < N; n += kLanes) {
      const int64_t count = Least(kLanes, N - n);
      F32 h = x * Load(B + n);
      if constexpr (!kFirst) h = MulAdd(LoadLanes(h0 + i * N + n, count), Set(decay), h);
      if (hT != nullptr) StoreLanes(h, hT + i * N + n, count);
      sum = MulAdd(h, Load(C + n), sum);
    }
    sums[i] = sum;
  }
  return FoldSums<kLanes>(sums);
}

void Step(const SsdStepArguments& a) {
  const SsdProblem& p = *a.problem;
  const SsdPart& part = a.part;
  const int64_t P = p.head_dim;
  const int64_t N = p.states;
  float* B = a.scratch;
  float* C = B + Padded(N);
  Pack(p.B, p.activation, part.row, part.group * N, 1, N, 1.0f, B, Padded(N));
  Pack(p.C, p.activation, part.row, part.group * N, 1, N, 1.0f, C, Padded(N));
  for (int64_t head = part.head_begin; head < part.head_end; ++head) {
    const float raw = LoadAny(p.dt, p.activation, part.row, head) +
                      (p.dt_bias != nullptr ? p.dt_bias[head] : 0.0f);
    const float step = LimitedSoftplus(p, Set(raw)).value[0] *
                       (p.interval != nullptr ? p.interval[part.row] : 1.0f);
    const float decay = Exp(Set(step * p.A[head]))[0];
    const int64_t offset = StateOffset(p, part.sequence, head);
    for (int64_t channel = 0; channel < P; channel += kLanes) {
      const int64_t count = Least(kLanes, P - channel);
      alignas(64) float x[kBlockPad];
      alignas(64) float weighted_x[kBlockPad];
      Pack(p.x, p.activation, part.row, head * P + channel, 1, count, 1.0f, x, kBlockPad);
      ScaleRow(x, step, kLanes, weighted_x);
      const float* h0 = a.h0 != nullptr ? a.h0 + offset + channel * N : nullptr;
      float* hT = a.hT != nullptr ? a.hT + offset + channel * N : nullptr;
      F32 y = h0 != nullptr ? StepChannels<false>(B, C, weighted_x, decay, count, N, h0, hT)
                            : StepChannels<true>(B, C, weighted_x, decay, count, N, h0, hT);
      if (p.D != nullptr) y = MulAdd(Set(p.D[head]), Load(x), y);
      Store(y, weighted_x);
      Unpack(weighted_x, kBlockPad, 1, count, 1.0f, a.y, p.activation, part.row,
             head * P + channel);
    }
  }
}

// ---- Backward -----------------------------------------------------------------------------------

// Scratch of the backward, cut up.
struct Workspace {
  float *B, *C, *B_across, *dB, *dC, *projection_term;
  float *x, *x_across, *dy, *dx, *channel_term;
  float *CB, *products, *weights, *dCB;
  float *state, *gradient_across;
  float* gradients;  // of the states after the chunk, [heads][head_dim][states]

  Workspace(float* scratch, int64_t P_stride, int64_t N_stride) {
    for (float** each : {&B, &C, &B_across, &dB, &dC, &projection_term}) {
      *each = scratch;
      scratch += kRows * N_stride;
    }
    for (float** each : {&x, &x_across, &dy, &dx, &channel_term}) {
      *each = scratch;
      scratch += kRows * P_stride;
    }
    for (float** each : {&CB, &products, &weights, &dCB}) {
      *each = scratch;
      scratch += kRows * kRows;
    }
    for (float** each : {&state, &gradient_across}) {
      *each = scratch;
      scratch += P_stride * N_stride;
    }
    gradients = scratch;
  }
};

// One head's part of a chunk. `dh` is the gradient of the state after the chunk, and becomes that
// of the state before it.
void BackwardHead(const SsdBackwardArguments& a, const Workspace& w, int64_t row, int64_t rows,
                  int64_t chunk, int64_t head, float* dh) {
  const SsdProblem& p = *a.problem;
  const int64_t P = p.head_dim;
  const int64_t N = p.states;
  const int64_t P_stride = Padded(P);
  const int64_t N_stride = Padded(N);
  Steps steps;
  LoadSteps(p, row, rows, head, &steps);
  Pack(p.x, p.activation, row, head * P, rows, P, 1.0f, w.x, P_stride);
  Pack(a.dy, p.activation, row, head * P, rows, P, 1.0f, w.dy, P_stride);
  PackTransposed(static_cast<const float*>(w.x), P_stride, rows, P, w.x_across, kRows);
  MultiplyTriangle(rows, P, w.dy, P_stride, w.x_across, w.products);

  // Within the chunk. d_step: the gradient of dt' where it weighs x. d_increment: that of dt'·A of
  // a row t, through all decays from a row s < t to a row ≥ t, of which `reaching` holds the sums
  // over the latter. (Differences of sums over rows would be shorter, and lose digits.)
  double d_increment[kRows] = {};
  alignas(64) float d_step[kRows] = {};
  alignas(64) float reaching[kRows] = {};
  for (int64_t t = rows - 1; t >= 0; --t) {
    F32 through = Zero();
    ForEachDecay(
        steps, t, rows, [&](int64_t s, F32 decay) __attribute__((always_inline)) {
          const int64_t at = t * kRows + s;
          const F32 step = Load(steps.step + s);
          const F32 product = Load(w.products + at);
          const F32 per_step = Load(w.CB + at) * decay;
          const F32 to_step = per_step * product;
          Store(per_step * step, w.weights + at);
          Store(MulAdd(decay * step, product, Load(w.dCB + at)), w.dCB + at);
          Store(Load(d_step + s) + to_step, d_step + s);
          const F32 reached = MulAdd(to_step, step, Load(reaching + s));
          Store(reached, reaching + s);
          through +=
              s + kLanes <= t ? reached : Select(FirstLanes(t > s ? t - s : 0), reached, Zero());
        });
    d_increment[t] = static_cast<double>(ReduceSum(through));
  }

  // x reaches y within the chunk, past it through the state, and by the skip connection.
  const float skip = p.D != nullptr ? p.D[head] : 0.0f;
  PackTransposed(static_cast<const float*>(dh), N_stride, P, N, w.gradient_across, P_stride);
  BlockProduct<false>(rows, PaddedToVector(P), N, {w.B, N_stride, 1}, w.gradient_across, P_stride,
                      w.channel_term, P_stride);
  double d_skip = 0;
  double leaving = 0;  // what decays from rows before this one to the state after the chunk
  for (int64_t s = 0; s < rows; ++s) {
    const float* term = w.channel_term + s * P_stride;
    const double to_step =
        DotRow(term, w.x + s * P_stride, P) * static_cast<double>(steps.to_end[s]);
    d_step[s] += static_cast<float>(to_step);
    d_increment[s] += leaving;
    leaving += to_step * static_cast<double>(steps.step[s]);
    ScaleRow(w.dy + s * P_stride, skip, P_stride, w.dx + s * P_stride);
    AddRow(term, steps.step[s] * steps.to_end[s], P, w.dx + s * P_stride);
    d_skip += DotRow(w.dy + s * P_stride, w.x + s * P_stride, P);
  }
  AddUpper(w.weights, rows, w.dy, P, w.dx);
  if (a.dx.data != nullptr) {
    Unpack(w.dx, P_stride, rows, P, 1.0f, a.dx, p.activation, row, head * P);
  }

  // B through the state after the chunk, C through the one before it.
  BlockProduct<false>(rows, PaddedToVector(N), P, {w.x, P_stride, 1}, dh, N_stride,
                      w.projection_term, N_stride);
  for (int64_t s = 0; s < rows; ++s) {
    AddRow(w.projection_term + s * N_stride, steps.step[s] * steps.to_end[s], N,
           w.dB + s * N_stride);
  }
  PackRows(a.chunk_states + StateOffset(p, chunk, head), N, P, N, 1.0f, w.state, N_stride);
  BlockProduct<false>(rows, PaddedToVector(N), P, {w.dy, P_stride, 1}, w.state, N_stride,
                      w.projection_term, N_stride);
  // What decays from the state before the chunk to this row and those after it, the state included.
  double arriving =
      DotRow(w.state, dh, P * N_stride) * static_cast<double>(steps.from_start[rows - 1]);
  for (int64_t t = rows - 1; t >= 0; --t) {
    const float* term = w.projection_term + t * N_stride;
    AddRow(term, steps.from_start[t], N, w.dC + t * N_stride);
    arriving += DotRow(term, w.C + t * N_stride, N) * static_cast<double>(steps.from_start[t]);
    d_increment[t] += arriving;
    ScaleRow(w.dy + t * P_stride, steps.from_start[t], P_stride, w.dy + t * P_stride);
  }
  // The state before the chunk.
  ScaleRow(dh, steps.from_start[rows - 1], P * N_stride, dh);
  BlockProduct<true>(P, PaddedToVector(N), rows, {w.dy, 1, P_stride}, w.C, N_stride, dh, N_stride);

  const auto A = static_cast<double>(p.A[head]);
  double d_rate = 0;
  double d_bias = 0;
  for (int64_t t = 0; t < rows; ++t) {
    d_rate += d_increment[t] * static_cast<double>(steps.step[t]);
    const double d_total = d_increment[t] * A + static_cast<double>(d_step[t]);
    const double d_dt = d_total * static_cast<double>(steps.slope[t]);
    d_bias += d_dt;
    if (a.d_interval != nullptr) {
      a.d_interval[row + t] += static_cast<float>(d_total * static_cast<double>(steps.softplus[t]));
    }
    if (a.ddt.data != nullptr) {
      StoreAny(static_cast<float>(d_dt), a.ddt, p.activation, row + t, head);
    }
  }
  a.dA[head] += d_rate;
  a.dD[head] += d_skip;
  a.d_dt_bias[head] += d_bias;
}

void Backward(const SsdBackwardArguments& a) {
  const SsdProblem& p = *a.problem;
  const SsdPart& part = a.part;
  const int64_t P = p.head_dim;
  const int64_t N = p.states;
  const int64_t N_stride = Padded(N);
  const Workspace w(a.scratch, Padded(P), N_stride);
  for (int64_t head = part.head_begin; head < part.head_end; ++head) {
    a.dA[head] = a.dD[head] = a.d_dt_bias[head] = 0;
    float* dh = w.gradients + (head - part.head_begin) * P * N_stride;
    if (a.dhT != nullptr) {
      PackRows(a.dhT + StateOffset(p, part.sequence, head), N, P, N, 1.0f, dh, N_stride);
    } else {
      SetZeros(dh, P * N_stride);
    }
  }
  for (int64_t chunk = (part.rows + kRows - 1) / kRows - 1; chunk >= 0; --chunk) {
    const int64_t row = part.row + chunk * kRows;
    const int64_t rows = Least(kRows, part.rows - chunk * kRows);
    const int64_t column = part.group * N;
    Pack(p.B, p.activation, row, column, rows, N, 1.0f, w.B, N_stride);
    Pack(p.C, p.activation, row, column, rows, N, 1.0f, w.C, N_stride);
    PackTransposed(static_cast<const float*>(w.B), N_stride, rows, N, w.B_across, kRows);
    MultiplyTriangle(rows, N, w.C, N_stride, w.B_across, w.CB);
    SetZeros(w.dB, kRows * N_stride);
    SetZeros(w.dC, kRows * N_stride);
    SetZeros(w.dCB, kRows * kRows);
    for (int64_t head = part.head_begin; head < part.head_end; ++head) {
      BackwardHead(a, w, row, rows, part.chunk + chunk, head,
                   w.gradients + (head - part.head_begin) * P * N_stride);
    }
    AddLower(w.dCB, rows, w.B, N, w.dC);
    AddUpper(w.dCB, rows, w.C, N, w.dB);
    const int64_t stride = p.groups * N;
    UnpackRows(w.dB, N_stride, rows, N, 1.0f, a.dB + row * stride + column, stride);
    UnpackRows(w.dC, N_stride, rows, N, 1.0f, a.dC + row * stride + column, stride);
  }
  if (a.dh0 == nullptr) return;
  for (int64_t head = part.head_begin; head < part.head_end; ++head) {
    UnpackRows(w.gradients + (head - part.head_begin) * P * N_stride, N_stride, P, N, 1.0f,
               a.dh0 + StateOffset(p, part.sequence, head), N);
  }
}

}  // namespace

void SsdForward(const SsdForwardArguments& arguments) { Forward(arguments); }
void SsdStep(const SsdStepArguments& arguments) { Step(arguments); }
void SsdBackwardPart(const SsdBackwardArguments& arguments) { Backward(arguments); }

}  // namespace adder::cpu::ADDER_ISA
