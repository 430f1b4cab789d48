// causal_conv1d: vectors run over channels, the loop over rows keeps the window in registers.
// Every row is computed by the same instructions however the sequence is cut, so that the whole
// sequence, its chunks and its single rows give the same bits.
#include "adder/ops/causal_conv1d/causal_conv1d_kernel.h"

#include "adder/backend/cpu/simd.h"

namespace adder::cpu::ADDER_ISA {
namespace {

// kLanes channels, or fewer at the end of a row.
template <bool kPartial>
struct Channels {
  int64_t first;
  int64_t count;

  template <class T>
  __attribute__((always_inline)) F32 LoadFrom(const T* row) const {
    if constexpr (kPartial) return LoadPartial(row + first, count);
    return Load(row + first);
  }
  template <class T>
  __attribute__((always_inline)) void StoreTo(F32 value, T* row) const {
    if constexpr (kPartial) return StorePartial(value, row + first, count);
    Store(value, row + first);
  }
  template <class T>
  __attribute__((always_inline)) void PrefetchFrom(const T* row) const {
    __builtin_prefetch(row + first, 0);
  }
  template <class T>
  __attribute__((always_inline)) void PrefetchTo(T* row) const {
    __builtin_prefetch(row + first, 1);
  }
};

// How far ahead rows are fetched into the cache, as the hardware does not follow a walk across
// rows: the same channels of the next segment, or nothing new at a sequence's end.
ADDER_SIMD int64_t RowsAhead(const ConvSegment& segment) {
  return segment.position + 2 * kConvSegmentRows <= segment.length ? kConvSegmentRows : 0;
}

template <class T>
ADDER_SIMD const T* Row(const ConvMatrix<const void*>& matrix, int64_t row) {
  return static_cast<const T*>(matrix.data) + row * matrix.stride;
}
template <class T>
ADDER_SIMD T* Row(const ConvMatrix<void*>& matrix, int64_t row) {
  return static_cast<T*>(matrix.data) + row * matrix.stride;
}
template <class Pointer>
ADDER_SIMD Pointer Row(const ConvWindow<Pointer>& window, int64_t sequence, int64_t row) {
  return window.data + sequence * window.sequence_stride + row * window.row_stride;
}

template <int kWidth, bool kPartial>
ADDER_SIMD void LoadWeights(const float* weight, int64_t stride, Channels<kPartial> channels,
                            F32 (&w)[kWidth]) {
  for (int k = 0; k < kWidth; ++k) w[k] = channels.LoadFrom(weight + k * stride);
}

// window[0 ... width-2] = the rows before the segment's first
template <class T, int kWidth, bool kPartial>
ADDER_SIMD void LoadWindow(const ConvMatrix<const void*>& x,
                           const ConvWindow<const float*>& initial_window,
                           const ConvSegment& segment, Channels<kPartial> channels,
                           F32 (&window)[kWidth]) {
  for (int j = 0; j < kWidth - 1; ++j) {
    if (segment.position > 0) {
      window[j] = channels.LoadFrom(Row<T>(x, segment.begin - (kWidth - 1) + j));
    } else if (initial_window.data != nullptr) {
      window[j] = channels.LoadFrom(Row(initial_window, segment.sequence, j));
    } else {
      window[j] = Zero();
    }
  }
}

template <int kWidth>
ADDER_SIMD F32 Convolve(const F32 (&w)[kWidth], const F32 (&window)[kWidth], F32 bias) {
  F32 sum = bias;
  for (int k = 0; k < kWidth; ++k) sum = MulAdd(w[k], window[k], sum);
  return sum;
}

template <int kWidth>
ADDER_SIMD void Shift(F32 (&window)[kWidth]) {
  for (int k = 0; k < kWidth - 1; ++k) window[k] = window[k + 1];
}

// The last rows that the sequence has seen. Ascending, and after all reads of the initial window,
// as the two may be one.
template <class T, int kWidth, bool kPartial>
ADDER_SIMD void StoreFinalWindow(const CausalConv1dArguments& a, const ConvSegment& first,
                                 Channels<kPartial> channels) {
  for (int j = 0; j < kWidth - 1; ++j) {
    const int64_t t = first.length - (kWidth - 1) + j;
    F32 value = Zero();
    if (t >= 0) {
      value = channels.LoadFrom(Row<T>(a.x, first.begin + t));
    } else if (a.initial_window.data != nullptr) {
      value = channels.LoadFrom(Row(a.initial_window, first.sequence, t + kWidth - 1));
    }
    channels.StoreTo(value, Row(a.final_window, first.sequence, j));
  }
}

template <class T, int kWidth, bool kPartial>
ADDER_SIMD void Forward(const CausalConv1dArguments& a, const ConvSegment& segment,
                        Channels<kPartial> channels) {
  F32 w[kWidth];
  LoadWeights(a.weight, a.weight_stride, channels, w);
  const F32 bias = a.bias != nullptr ? channels.LoadFrom(a.bias) : Zero();
  F32 window[kWidth];
  LoadWindow<T>(a.x, a.initial_window, segment, channels, window);
  const int64_t ahead = RowsAhead(segment);
  for (int64_t row = segment.begin; row < segment.begin + segment.rows; ++row) {
    channels.PrefetchFrom(Row<T>(a.x, row + ahead));
    channels.PrefetchTo(Row<T>(a.y, row + ahead));
    window[kWidth - 1] = channels.LoadFrom(Row<T>(a.x, row));
    const F32 v = Convolve(w, window, bias);
    channels.StoreTo(a.silu ? Silu(v) : v, Row<T>(a.y, row));
    Shift(window);
  }
  if (segment.position == 0 && a.final_window.data != nullptr) {
    StoreFinalWindow<T, kWidth>(a, segment, channels);
  }
}

// With pending[k] the gradient collected so far of the row that lies width-1-k before the current
// one: pending[0] is complete after each row.
template <class T, int kWidth, bool kPartial>
ADDER_SIMD void Backward(const CausalConv1dBackwardArguments& a, const ConvSegment& segment,
                         Channels<kPartial> channels) {
  constexpr int kWindow = kWidth - 1;
  const int64_t first = segment.begin - segment.position;  // row of the sequence
  // Stores the gradient of row t of the sequence, or of its initial window's where t < 0.
  const auto store = [&](F32 value, int64_t t) __attribute__((always_inline)) {
    if (t >= 0) {
      if (a.dx.data != nullptr) channels.StoreTo(value, Row<T>(a.dx, first + t));
    } else if (a.d_initial_window.data != nullptr) {
      channels.StoreTo(value, Row(a.d_initial_window, segment.sequence, t + kWindow));
    }
  };
  F32 w[kWidth];
  LoadWeights(a.weight, a.weight_stride, channels, w);
  const F32 bias = a.bias != nullptr ? channels.LoadFrom(a.bias) : Zero();
  F32 window[kWidth];
  LoadWindow<T>(a.x, a.initial_window, segment, channels, window);
  F32 pending[kWidth];
  for (int k = 0; k < kWindow; ++k) {
    pending[k] =
        segment.position > 0 ? channels.LoadFrom(a.pending + k * a.scratch_stride) : Zero();
  }
  F32 dw[kWidth] = {};
  F32 db = Zero();
  const int64_t ahead = RowsAhead(segment);
  for (int64_t row = 0; row < segment.rows; ++row) {
    channels.PrefetchFrom(Row<T>(a.x, segment.begin + row + ahead));
    channels.PrefetchFrom(Row<T>(a.dy, segment.begin + row + ahead));
    window[kWindow] = channels.LoadFrom(Row<T>(a.x, segment.begin + row));
    F32 dv = channels.LoadFrom(Row<T>(a.dy, segment.begin + row));
    if (a.silu) {
      const F32 v = Convolve(w, window, bias);
      const F32 sigmoid = Sigmoid(v);
      dv = dv * sigmoid * MulAdd(v, 1.0f - sigmoid, Set(1.0f));
    }
    db = db + dv;
    pending[kWindow] = Zero();
    for (int k = 0; k < kWidth; ++k) {
      dw[k] = MulAdd(dv, window[k], dw[k]);
      pending[k] = MulAdd(dv, w[k], pending[k]);
    }
    store(pending[0], segment.position + row - kWindow);
    Shift(window);
    Shift(pending);
  }
  const bool ends_sequence = segment.position + segment.rows == segment.length;
  for (int k = 0; k < kWindow; ++k) {
    if (!ends_sequence) {
      channels.StoreTo(pending[k], a.pending + k * a.scratch_stride);
      continue;
    }
    if (a.d_final_window.data != nullptr) {
      pending[k] = pending[k] + channels.LoadFrom(Row(a.d_final_window, segment.sequence, k));
    }
    store(pending[k], segment.length - kWindow + k);
  }
  for (int k = 0; k < kWidth; ++k) {
    float* sum = a.dweight + k * a.scratch_stride;
    channels.StoreTo(channels.LoadFrom(sum) + dw[k], sum);
  }
  channels.StoreTo(channels.LoadFrom(a.dbias) + db, a.dbias);
}

template <class T, int kWidth>
void ForwardOfWidth(const CausalConv1dArguments& a) {
  for (int64_t i = 0; i < a.segment_count; ++i) {
    int64_t c = 0;
    for (; c + kLanes <= a.channels; c += kLanes) {
      Forward<T, kWidth>(a, a.segments[i], Channels<false>{c, kLanes});
    }
    if (c < a.channels) {
      Forward<T, kWidth>(a, a.segments[i], Channels<true>{c, a.channels - c});
    }
  }
}

template <class T, int kWidth>
void BackwardOfWidth(const CausalConv1dBackwardArguments& a) {
  for (int64_t i = 0; i < a.segment_count; ++i) {
    int64_t c = a.channel_begin;
    for (; c + kLanes <= a.channel_end; c += kLanes) {
      Backward<T, kWidth>(a, a.segments[i], Channels<false>{c, kLanes});
    }
    if (c < a.channel_end) {
      Backward<T, kWidth>(a, a.segments[i], Channels<true>{c, a.channel_end - c});
    }
  }
}

template <int kWidth>
void TransposeOfWidth(const float* __restrict from, float* __restrict to, int64_t channels) {
  for (int64_t d = 0; d < channels; ++d) {
    for (int k = 0; k < kWidth; ++k) to[k * channels + d] = from[d * kWidth + k];
  }
}

// Calls run(Width<2>()) ... run(Width<8>()), so that windows have a constant size.
template <int kValue>
struct Width {
  static constexpr int value = kValue;
};
template <class Run>
ADDER_SIMD void WithWidth(int64_t width, const Run& run) {
  switch (width) {
    case 2:
      return run(Width<2>());
    case 3:
      return run(Width<3>());
    case 4:
      return run(Width<4>());
    case 5:
      return run(Width<5>());
    case 6:
      return run(Width<6>());
    case 7:
      return run(Width<7>());
    default:
      return run(Width<8>());
  }
}

template <class T>
void ForwardOfType(const CausalConv1dArguments& a) {
  WithWidth(a.width, [&](auto width) { ForwardOfWidth<T, width.value>(a); });
}

template <class T>
void BackwardOfType(const CausalConv1dBackwardArguments& a) {
  WithWidth(a.width, [&](auto width) { BackwardOfWidth<T, width.value>(a); });
}

}  // namespace

void ConvTransposeWeightKernel(const ConvTransposeWeightArguments& arguments) {
  WithWidth(arguments.width, [&](auto width) {
    TransposeOfWidth<width.value>(arguments.weight, arguments.transposed, arguments.channels);
  });
}

void CausalConv1dKernel(const CausalConv1dArguments& arguments) {
  VisitActivation(arguments.dtype, [&](auto type) { ForwardOfType<decltype(type)>(arguments); });
}

void CausalConv1dBackwardKernel(const CausalConv1dBackwardArguments& arguments) {
  VisitActivation(arguments.dtype, [&](auto type) { BackwardOfType<decltype(type)>(arguments); });
}

}  // namespace adder::cpu::ADDER_ISA
