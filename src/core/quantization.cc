#include "adder/core/quantization.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>

#include "adder/core/error.h"

namespace adder {
namespace {

// Scales of q4_k's sub-blocks of 32 and of q6_k's of 16.
constexpr int kSubBlocks4 = 8;
constexpr int kSubBlock4 = 32;
constexpr int kSubBlocks6 = 16;
constexpr int kSubBlock6 = 16;

void CheckFinite(const float* x, int count) {
  for (int i = 0; i < count; ++i) {
    if (!std::isfinite(x[i])) {
      throw Error(ErrorCode::kNumeric,
                  "the value " + std::to_string(x[i]) + " cannot be quantized");
    }
  }
}

// A block's scale as it is stored. A scale past f16 would make every element infinite.
Half StoredScale(float scale) {
  const Half stored(scale);
  if (!std::isfinite(static_cast<float>(stored))) {
    throw Error(ErrorCode::kNumeric,
                "values that need a scale of " + std::to_string(scale) + " cannot be quantized");
  }
  return stored;
}

// 0 also where the reciprocal would be infinite: for steps so small that f16 knows them as 0 only.
float ReciprocalOrZero(float x) {
  const float reciprocal = 1.0f / x;
  return std::isfinite(reciprocal) ? reciprocal : 0.0f;
}

// Four floats: a register of every machine.
typedef float Floats __attribute__((vector_size(16)));
constexpr int kFloats = 4;

float Sum(const Floats& x) {
  float sum = 0;
  for (int i = 0; i < kFloats; ++i) sum += x[i];
  return sum;
}

// To the nearest integer, ties to even, for magnitudes below 2²²: the sum has no bits for a
// fraction.
template <class T>
T Rounded(T x) {
  constexpr float kMagic = 12582912.0f;
  return (x + kMagic) - kMagic;
}

int RoundToRange(float x, int low, int high) {
  return static_cast<int>(
      Rounded(std::clamp(x, static_cast<float>(low), static_cast<float>(high))));
}

// ---- q8_0 ---------------------------------------------------------------------------------------

void QuantizeBlock(const float* x, BlockQ8_0* block) {
  float most = 0;
  for (int i = 0; i < 32; ++i) most = std::max(most, std::abs(x[i]));
  const float d = most / 127;
  const float inverse = ReciprocalOrZero(d);
  block->d = StoredScale(d);
  for (int i = 0; i < 32; ++i) block->q[i] = static_cast<int8_t>(std::round(x[i] * inverse));
}

void DequantizeBlock(const BlockQ8_0& block, float* x) {
  const auto d = static_cast<float>(block.d);
  for (int i = 0; i < 32; ++i) x[i] = d * static_cast<float>(block.q[i]);
}

// ---- q4_0 ---------------------------------------------------------------------------------------

void QuantizeBlock(const float* x, BlockQ4_0* block) {
  // The largest value becomes -8, of which there is one more than of 8.
  float largest = 0;
  for (int i = 0; i < 32; ++i) {
    if (std::abs(x[i]) > std::abs(largest)) largest = x[i];
  }
  const float d = largest / -8;
  const float inverse = ReciprocalOrZero(d);
  block->d = StoredScale(d);
  const auto nibble = [&](float value) {
    return std::min(15, static_cast<int>(value * inverse + 8.5f));
  };
  for (int i = 0; i < 16; ++i) {
    block->q[i] = static_cast<uint8_t>(nibble(x[i]) | nibble(x[i + 16]) << 4);
  }
}

void DequantizeBlock(const BlockQ4_0& block, float* x) {
  const auto d = static_cast<float>(block.d);
  for (int i = 0; i < 16; ++i) {
    x[i] = d * static_cast<float>((block.q[i] & 15) - 8);
    x[i + 16] = d * static_cast<float>((block.q[i] >> 4) - 8);
  }
}

// ---- q4_k ---------------------------------------------------------------------------------------

// x ≈ scale · q - min with q in [0, 15] and min ≥ 0.
struct Affine {
  float scale = 0;
  float min = 0;
};

// The affine map for 32 values with the least error, weighted: large values count more, since they
// do more to a product. Tries steps around the one that spans the values' range, and for the
// integers that each gives the scale and minimum of least squares.
Affine FitAffine(const float* values) {
  constexpr int kVectors = kSubBlock4 / kFloats;
  Floats x[kVectors];
  std::memcpy(x, values, sizeof x);
  float low = 0;
  float high = values[0];
  for (int i = 0; i < kSubBlock4; ++i) {
    low = std::min(low, values[i]);
    high = std::max(high, values[i]);
  }
  // So small that its reciprocal would be infinite, and no step at all in f16.
  if (high - low < 1e-30f) return {0, -low};
  Floats squares = {};
  for (const Floats& v : x) squares += v * v;
  const float typical = std::sqrt(Sum(squares) / kSubBlock4);
  Floats weights[kVectors];
  Floats w_sums = {};
  Floats wx_sums = {};
  Floats wxx_sums = {};
  for (int i = 0; i < kVectors; ++i) {
    weights[i] = typical + (x[i] < 0 ? -x[i] : x[i]);
    w_sums += weights[i];
    wx_sums += weights[i] * x[i];
    wxx_sums += weights[i] * x[i] * x[i];
  }
  const double sum_w = Sum(w_sums);
  const double sum_x = Sum(wx_sums);
  const double sum_xx = Sum(wxx_sums);

  Affine best = {(high - low) / 15, -low};
  double best_error = std::numeric_limits<double>::infinity();
  constexpr int kSteps = 30;
  for (int step = 0; step <= kSteps; ++step) {
    const float inverse = (13 + 0.1f * static_cast<float>(step)) / (high - low);
    Floats wq_sums = {};
    Floats wqq_sums = {};
    Floats wqx_sums = {};
    for (int i = 0; i < kVectors; ++i) {
      Floats q = Rounded(inverse * (x[i] - low));
      q = q > 15.0f ? Floats{} + 15.0f : q;
      const Floats wq = weights[i] * q;
      wq_sums += wq;
      wqq_sums += wq * q;
      wqx_sums += wq * x[i];
    }
    const double sum_q = Sum(wq_sums);
    const double sum_qq = Sum(wqq_sums);
    const double sum_qx = Sum(wqx_sums);
    const double determinant = sum_w * sum_qq - sum_q * sum_q;
    if (!(determinant > 0)) continue;
    double scale = (sum_w * sum_qx - sum_x * sum_q) / determinant;
    double min = (sum_q * sum_qx - sum_qq * sum_x) / determinant;
    if (min < 0) {
      scale = sum_qx / sum_qq;
      min = 0;
    }
    if (!(scale > 0)) continue;
    // Σ w · (scale · q - min - x)²
    const double error = scale * scale * sum_qq + min * min * sum_w + sum_xx +
                         2 * (min * sum_x - scale * min * sum_q - scale * sum_qx);
    if (error < best_error) {
      best_error = error;
      best = {static_cast<float>(scale), static_cast<float>(min)};
    }
  }
  return best;
}

void PackScaleAndMin(int j, int scale, int min, uint8_t (&scales)[12]) {
  if (j < 4) {
    scales[j] = static_cast<uint8_t>((scales[j] & 0xc0) | scale);
    scales[j + 4] = static_cast<uint8_t>((scales[j + 4] & 0xc0) | min);
  } else {
    scales[j + 4] = static_cast<uint8_t>((scale & 15) | (min & 15) << 4);
    scales[j - 4] = static_cast<uint8_t>((scales[j - 4] & 0x3f) | (scale >> 4) << 6);
    scales[j] = static_cast<uint8_t>((scales[j] & 0x3f) | (min >> 4) << 6);
  }
}

// A block of q4_k, unpacked.
struct Block4 {
  Half d;
  Half dmin;
  int scale[kSubBlocks4];
  int min[kSubBlocks4];
  int q[kSubBlocks4 * kSubBlock4];
};

// Chooses the integers for the scales as they are stored.
void RoundElements(const float* x, Block4* block) {
  for (int j = 0; j < kSubBlocks4; ++j) {
    const float scale = static_cast<float>(block->d) * static_cast<float>(block->scale[j]);
    const float min = static_cast<float>(block->dmin) * static_cast<float>(block->min[j]);
    const float inverse = ReciprocalOrZero(scale);
    for (int i = kSubBlock4 * j; i < kSubBlock4 * (j + 1); ++i) {
      block->q[i] = RoundToRange((x[i] + min) * inverse, 0, 15);
    }
  }
}

double SquaredError(const float* x, const Block4& block) {
  double sum = 0;
  for (int j = 0; j < kSubBlocks4; ++j) {
    const float scale = static_cast<float>(block.d) * static_cast<float>(block.scale[j]);
    const float min = static_cast<float>(block.dmin) * static_cast<float>(block.min[j]);
    for (int i = kSubBlock4 * j; i < kSubBlock4 * (j + 1); ++i) {
      const double error = scale * static_cast<float>(block.q[i]) - min - x[i];
      sum += error * error;
    }
  }
  return sum;
}

// The d and dmin of least squares for the block's integers: x ≈ d · (s · q) - dmin · m.
void RefineScales(const float* x, Block4* block) {
  double ss = 0;
  double sm = 0;
  double mm = 0;
  double sx = 0;
  double mx = 0;
  for (int j = 0; j < kSubBlocks4; ++j) {
    for (int i = kSubBlock4 * j; i < kSubBlock4 * (j + 1); ++i) {
      const double s = block->scale[j] * block->q[i];
      const double m = block->min[j];
      ss += s * s;
      sm += s * m;
      mm += m * m;
      sx += s * x[i];
      mx += m * x[i];
    }
  }
  const double determinant = ss * mm - sm * sm;
  if (!(determinant > 0)) return;
  const double d = (sx * mm - mx * sm) / determinant;
  const double dmin = (sx * sm - mx * ss) / determinant;
  if (!(d > 0) || !(dmin > 0)) return;
  Block4 refined = *block;
  refined.d = StoredScale(static_cast<float>(d));
  refined.dmin = StoredScale(static_cast<float>(dmin));
  RoundElements(x, &refined);
  if (SquaredError(x, refined) < SquaredError(x, *block)) *block = refined;
}

void QuantizeBlock(const float* x, BlockQ4_K* block) {
  Affine maps[kSubBlocks4];
  Affine most;
  for (int j = 0; j < kSubBlocks4; ++j) {
    maps[j] = FitAffine(x + kSubBlock4 * j);
    most.scale = std::max(most.scale, maps[j].scale);
    most.min = std::max(most.min, maps[j].min);
  }
  Block4 chosen;
  chosen.d = StoredScale(most.scale / 63);
  chosen.dmin = StoredScale(most.min / 63);
  const float inverse_d = ReciprocalOrZero(static_cast<float>(chosen.d));
  const float inverse_dmin = ReciprocalOrZero(static_cast<float>(chosen.dmin));
  for (int j = 0; j < kSubBlocks4; ++j) {
    chosen.scale[j] = RoundToRange(maps[j].scale * inverse_d, 0, 63);
    chosen.min[j] = RoundToRange(maps[j].min * inverse_dmin, 0, 63);
  }
  RoundElements(x, &chosen);
  RefineScales(x, &chosen);

  block->d = chosen.d;
  block->dmin = chosen.dmin;
  std::memset(block->scales, 0, sizeof block->scales);
  std::memset(block->q, 0, sizeof block->q);
  for (int j = 0; j < kSubBlocks4; ++j) {
    PackScaleAndMin(j, chosen.scale[j], chosen.min[j], block->scales);
    for (int i = 0; i < kSubBlock4; ++i) {
      uint8_t& byte = block->q[32 * (j / 2) + i];
      byte = static_cast<uint8_t>(byte | chosen.q[kSubBlock4 * j + i] << (j % 2 * 4));
    }
  }
}

void DequantizeBlock(const BlockQ4_K& block, float* x) {
  for (int j = 0; j < kSubBlocks4; ++j) {
    const auto [s, m] = UnpackScaleAndMin(block.scales, j);
    const float scale = static_cast<float>(block.d) * static_cast<float>(s);
    const float min = static_cast<float>(block.dmin) * static_cast<float>(m);
    for (int i = 0; i < kSubBlock4; ++i) {
      const int q = block.q[32 * (j / 2) + i] >> (j % 2 * 4) & 15;
      x[kSubBlock4 * j + i] = scale * static_cast<float>(q) - min;
    }
  }
}

// ---- q6_k ---------------------------------------------------------------------------------------

// The scale for 16 values ≈ scale · q, q in [-32, 31], with the least squared error, weighted by
// the values' squares. Of either sign: the largest value may need -32.
float FitScale(const float* values) {
  float largest = 0;
  for (int i = 0; i < kSubBlock6; ++i) {
    if (std::abs(values[i]) > std::abs(largest)) largest = values[i];
  }
  // So small that its reciprocal could be infinite, and no scale at all in f16.
  if (std::abs(largest) < 1e-15f) return 0;
  // In units of the largest value, to stay within f32's range.
  constexpr int kVectors = kSubBlock6 / kFloats;
  Floats x[kVectors];
  std::memcpy(x, values, sizeof x);
  for (Floats& v : x) v /= largest;
  float best = 0;
  float best_gain = 0;
  for (int step = -9; step <= 9; ++step) {
    const float inverse = -(32 + 0.1f * static_cast<float>(step));
    // For given integers the best scale is Σ w·x·q / Σ w·q², which lowers the error by
    // (Σ w·x·q)² / Σ w·q².
    Floats wxq_sums = {};
    Floats wqq_sums = {};
    for (const Floats& v : x) {
      Floats q = Rounded(inverse * v);
      q = q > 31.0f ? Floats{} + 31.0f : q < -32.0f ? Floats{} - 32.0f : q;
      wxq_sums += v * v * v * q;
      wqq_sums += v * v * q * q;
    }
    const float sum_xq = Sum(wxq_sums);
    const float sum_qq = Sum(wqq_sums);
    if (sum_qq > 0 && sum_xq * sum_xq > best_gain * sum_qq) {
      best_gain = sum_xq * sum_xq / sum_qq;
      best = sum_xq / sum_qq * largest;
    }
  }
  return best;
}

void QuantizeBlock(const float* x, BlockQ6_K* block) {
  float scales[kSubBlocks6];
  float largest = 0;
  for (int j = 0; j < kSubBlocks6; ++j) {
    scales[j] = FitScale(x + kSubBlock6 * j);
    if (std::abs(scales[j]) > std::abs(largest)) largest = scales[j];
  }
  block->d = StoredScale(largest / -128);
  const auto d = static_cast<float>(block->d);
  const float inverse_d = ReciprocalOrZero(d);
  std::memset(block->ql, 0, sizeof block->ql);
  std::memset(block->qh, 0, sizeof block->qh);
  for (int j = 0; j < kSubBlocks6; ++j) {
    const int s = RoundToRange(scales[j] * inverse_d, -128, 127);
    block->scales[j] = static_cast<int8_t>(s);
    const float inverse = ReciprocalOrZero(d * static_cast<float>(s));
    for (int i = 0; i < kSubBlock6; ++i) {
      const int element = kSubBlock6 * j + i;
      const int q = RoundToRange(x[element] * inverse, -32, 31) + 32;
      const int half = element / 128;
      const int k = element % 128 / 32;
      const int at = element % 32;
      uint8_t& low = block->ql[64 * half + 32 * (k % 2) + at];
      uint8_t& high = block->qh[32 * half + at];
      low = static_cast<uint8_t>(low | (q & 15) << (k / 2 * 4));
      high = static_cast<uint8_t>(high | (q >> 4) << (2 * k));
    }
  }
}

void DequantizeBlock(const BlockQ6_K& block, float* x) {
  const auto d = static_cast<float>(block.d);
  for (int element = 0; element < kSubBlocks6 * kSubBlock6; ++element) {
    const int half = element / 128;
    const int k = element % 128 / 32;
    const int at = element % 32;
    const int low = block.ql[64 * half + 32 * (k % 2) + at] >> (k / 2 * 4) & 15;
    const int high = block.qh[32 * half + at] >> (2 * k) & 3;
    const int sub_block = element / kSubBlock6;
    const float s = block.scales[sub_block];
    const float scale = d * s;
    x[element] = scale * static_cast<float>((low | high << 4) - 32);
  }
}

// Calls visit(Block{}) with the dtype's block.
template <class Visit>
void VisitBlock(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::kQ8_0:
      return visit(BlockQ8_0{});
    case DType::kQ4_0:
      return visit(BlockQ4_0{});
    case DType::kQ4_K:
      return visit(BlockQ4_K{});
    case DType::kQ6_K:
      return visit(BlockQ6_K{});
    default:
      throw Error(ErrorCode::kInvalidArgument,
                  std::string(DTypeName(dtype)) + " is no quantized dtype");
  }
}

}  // namespace

ScaleAndMin UnpackScaleAndMin(const uint8_t (&scales)[12], int j) {
  if (j < 4) return {scales[j] & 63, scales[j + 4] & 63};
  return {(scales[j + 4] & 15) | (scales[j - 4] >> 6) << 4, (scales[j + 4] >> 4) | (scales[j] >> 6)
                                                                                       << 4};
}

void Quantize(DType dtype, const float* values, int64_t count, void* blocks) {
  const int64_t bytes = DTypeBytes(dtype, count);
  VisitBlock(dtype, [&](auto block) {
    const int64_t elements = DTypeBlockElements(dtype);
    auto* to = static_cast<std::byte*>(blocks);
    for (std::byte* const end = to + bytes; to != end; to += sizeof block) {
      CheckFinite(values, static_cast<int>(elements));
      QuantizeBlock(values, &block);
      std::memcpy(to, &block, sizeof block);
      values += elements;
    }
  });
}

void Dequantize(DType dtype, const void* blocks, int64_t count, float* values) {
  const int64_t bytes = DTypeBytes(dtype, count);
  VisitBlock(dtype, [&](auto block) {
    const auto* from = static_cast<const std::byte*>(blocks);
    for (const std::byte* const end = from + bytes; from != end; from += sizeof block) {
      std::memcpy(&block, from, sizeof block);
      DequantizeBlock(block, values);
      values += DTypeBlockElements(dtype);
    }
  });
}

}  // namespace adder
