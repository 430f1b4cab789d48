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
};

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

// w[k] = weight[channel, k]
template <int kWidth, bool kPartial>
ADDER_SIMD void LoadWeights(const float* weight, Channels<kPartial> channels, F32 (&w)[kWidth]) {
  float transposed[kWidth][kLanes];
  const float* from = weight + channels.first * kWidth;
  for (int i = 0; i < kLanes; ++i) {
    const bool inside = !kPartial || i < channels.count;
    for (int k = 0; k < kWidth; ++k) transposed[k][i] = inside ? from[i * kWidth + k] : 0.0f;
  }
  for (int k = 0; k < kWidth; ++k) w[k] = Load(transposed[k]);
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
void Forward(const CausalConv1dArguments& a, const ConvSegment* segments, int64_t segment_count,
             Channels<kPartial> channels) {
  F32 w[kWidth];
  LoadWeights(a.weight, channels, w);
  const F32 bias = a.bias != nullptr ? channels.LoadFrom(a.bias) : Zero();
  for (int64_t i = 0; i < segment_count; ++i) {
    const ConvSegment& segment = segments[i];
    F32 window[kWidth];
    LoadWindow<T>(a.x, a.initial_window, segment, channels, window);
    for (int64_t row = segment.begin; row < segment.begin + segment.rows; ++row) {
      window[kWidth - 1] = channels.LoadFrom(Row<T>(a.x, row));
      const F32 v = Convolve(w, window, bias);
      channels.StoreTo(a.silu ? Silu(v) : v, Row<T>(a.y, row));
      Shift(window);
    }
    if (segment.position == 0 && a.final_window.data != nullptr) {
      StoreFinalWindow<T, kWidth>(a, segment, channels);
    }
  }
}

// With pending[k] the gradient collected so far of the row that lies width-1-k before the current
// one: pending[0] is complete after each row.
template <class T, int kWidth, bool kPartial>
void Backward(const CausalConv1dBackwardArguments& a, const ConvSegment* segments,
              int64_t segment_count, Channels<kPartial> channels) {
  constexpr int kWindow = kWidth - 1;
  F32 w[kWidth];
  LoadWeights(a.weight, channels, w);
  const F32 bias = a.bias != nullptr ? channels.LoadFrom(a.bias) : Zero();
  F32 dw[kWidth] = {};
  F32 db = Zero();
  for (int64_t i = 0; i < segment_count; ++i) {
    const ConvSegment& segment = segments[i];
    const int64_t first = segment.begin - segment.position;  // row of the sequence
    // Stores the gradient of row t of the sequence, or of its initial window's where t < 0.
    const auto store = [&](F32 value, int64_t t) __attribute__((always_inline)) {
      if (t >= 0) {
        if (a.dx.data != nullptr) channels.StoreTo(value, Row<T>(a.dx, first + t));
      } else if (a.d_initial_window.data != nullptr) {
        channels.StoreTo(value, Row(a.d_initial_window, segment.sequence, t + kWindow));
      }
    };
    F32 window[kWidth];
    F32 pending[kWidth];
    LoadWindow<T>(a.x, a.initial_window, segment, channels, window);
    for (int k = 0; k < kWindow; ++k) {
      pending[k] =
          segment.position > 0 ? channels.LoadFrom(a.pending + k * a.scratch_stride) : Zero();
    }
    for (int64_t row = 0; row < segment.rows; ++row) {
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
        pending[k] =
            pending[k] + channels.LoadFrom(Row(a.d_final_window, segment.sequence, int64_t{k}));
      }
      store(pending[k], segment.length - kWindow + k);
    }
  }
  for (int k = 0; k < kWidth; ++k) {
    float* sum = a.dweight + k * a.scratch_stride;
    channels.StoreTo(channels.LoadFrom(sum) + dw[k], sum);
  }
  channels.StoreTo(channels.LoadFrom(a.dbias) + db, a.dbias);
}

// Calls run(segments, count, channels) for groups of segments, small enough to stay in the cache,
// and for each group's channels, kLanes at a time.
template <class Run>
ADDER_SIMD void ForEachGroup(const ConvSegment* segments, int64_t segment_count,
                             int64_t channel_begin, int64_t channel_end, const Run& run) {
  for (int64_t begin = 0; begin < segment_count;) {
    int64_t end = begin;
    for (int64_t rows = 0; end < segment_count && rows < kConvSegmentRows; ++end) {
      rows += segments[end].rows > 0 ? segments[end].rows : 1;
    }
    int64_t c = channel_begin;
    for (; c + kLanes <= channel_end; c += kLanes) {
      run(segments + begin, end - begin, Channels<false>{c, kLanes});
    }
    if (c < channel_end) {
      run(segments + begin, end - begin, Channels<true>{c, channel_end - c});
    }
    begin = end;
  }
}

template <class T, int kWidth>
void ForwardOfWidth(const CausalConv1dArguments& a) {
  ForEachGroup(a.segments, a.segment_count, 0, a.channels,
               [&](const ConvSegment* segments, int64_t count, auto channels) {
                 Forward<T, kWidth>(a, segments, count, channels);
               });
}

template <class T, int kWidth>
void BackwardOfWidth(const CausalConv1dBackwardArguments& a) {
  ForEachGroup(a.segments, a.segment_count, a.channel_begin, a.channel_end,
               [&](const ConvSegment* segments, int64_t count, auto channels) {
                 Backward<T, kWidth>(a, segments, count, channels);
               });
}

#define ADDER_CONV_FOR_WIDTH(function, T, arguments) \
  switch (arguments.width) {                         \
    case 2:                                          \
      return function<T, 2>(arguments);              \
    case 3:                                          \
      return function<T, 3>(arguments);              \
    case 4:                                          \
      return function<T, 4>(arguments);              \
    case 5:                                          \
      return function<T, 5>(arguments);              \
    case 6:                                          \
      return function<T, 6>(arguments);              \
    case 7:                                          \
      return function<T, 7>(arguments);              \
    default:                                         \
      return function<T, 8>(arguments);              \
  }

template <class T>
void ForwardOfType(const CausalConv1dArguments& a) {
  ADDER_CONV_FOR_WIDTH(ForwardOfWidth, T, a)
}

template <class T>
void BackwardOfType(const CausalConv1dBackwardArguments& a) {
  ADDER_CONV_FOR_WIDTH(BackwardOfWidth, T, a)
}

#undef ADDER_CONV_FOR_WIDTH

}  // namespace

void CausalConv1dKernel(const CausalConv1dArguments& arguments) {
  switch (arguments.dtype) {
    case DType::kBF16:
      return ForwardOfType<BFloat16>(arguments);
    case DType::kF16:
      return ForwardOfType<Half>(arguments);
    default:
      return ForwardOfType<float>(arguments);
  }
}

void CausalConv1dBackwardKernel(const CausalConv1dBackwardArguments& arguments) {
  switch (arguments.dtype) {
    case DType::kBF16:
      return BackwardOfType<BFloat16>(arguments);
    case DType::kF16:
      return BackwardOfType<Half>(arguments);
    default:
      return BackwardOfType<float>(arguments);
  }
}

}  // namespace adder::cpu::ADDER_ISA
