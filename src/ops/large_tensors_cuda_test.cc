// Operators on tensors of more than 2^31 elements on a CUDA device: what lies past the first 2^31
// gives what it gives alone. (activation, attention, embedding and GradientNorm: in their own
// tests.)
#include <cmath>
#include <span>
#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/core/target.h"
#include "adder/ops/adamw/adamw.h"
#include "adder/ops/attention/key_value_cache.h"
#include "adder/ops/causal_conv1d/causal_conv1d.h"
#include "adder/ops/elementwise/elementwise.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm.h"
#include "adder/ops/layer_norm/layer_norm.h"
#include "adder/ops/linear/linear.h"
#include "adder/ops/most_likely/most_likely.h"
#include "adder/ops/operator_test.h"
#include "adder/ops/rms_norm/rms_norm.h"
#include "adder/ops/rotary/rotary.h"
#include "adder/ops/selective_scan/selective_scan.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy.h"
#include "adder/ops/ssd/ssd.h"

namespace adder {
namespace {

using test::kCuda;
using test::Near;
using test::OnCpu;
using test::RandomNormal;
using test::SameBits;
using LargeTensorsCudaTest = test::CudaTest;

constexpr int64_t kColumns = 1024;
constexpr int64_t kTail = 37;  // rows whose every element lies past the first 2^31
constexpr int64_t kFront = int64_t{1} << 21;
constexpr int64_t kRows = kFront + kTail;
// One spacing: sums in another order, rounded to the neighbour.
constexpr double kTolerance = 0x1p-7;

Tensor Random16(Random& random, const Shape& shape, double mean = 0) {
  return RandomNormal(random, shape, mean).To(DType::kBF16).To(kCuda);
}
Tensor RandomF32(Random& random, const Shape& shape) {
  return RandomNormal(random, shape).To(DType::kF32).To(kCuda);
}
Tensor Large(DType dtype = DType::kBF16, int64_t columns = kColumns) {
  return Tensor::Zeros({kRows, columns}, dtype, kCuda);
}
// Behind rows of zeros.
Tensor AtTheEnd(const Tensor& tail) {
  const Tensor all = Large(tail.dtype(), tail.dim(1));
  all.Rows(kFront, kTail).CopyFrom(tail);
  return all;
}
Tensor Tail(const Tensor& all) { return OnCpu(all.Rows(all.dim(0) - kTail, kTail)); }
Tensor EmptyTail() { return Tensor::Empty({kTail, kColumns}, DType::kBF16, kCuda); }

// Two sequences, of which the last is the tail.
SequenceLayout Layout() { return SequenceLayout::FromLengths(std::vector{kFront, kTail}); }

TEST_F(LargeTensorsCudaTest, RmsNorm) {
  test::WithLargeMemory([] {
    Random random(1);
    const Tensor x = Random16(random, {kTail, kColumns});
    const Tensor residual = RandomF32(random, {kTail, kColumns});
    const Tensor dy = Random16(random, {kTail, kColumns});
    const Tensor weight = RandomF32(random, {kColumns});
    const auto run = [&](const Tensor& of_x, const Tensor& of_residual, const Tensor& of_dy) {
      RmsNorm({.x = of_x, .residual = of_residual, .weight = weight},
              {.y = of_x, .residual_out = of_residual});
      const RmsNormGradients g = {
          .dr = {}, .dx = of_dy, .dweight = Tensor::Zeros({kColumns}, DType::kF32, kCuda)};
      RmsNormBackward(of_residual, weight, 1e-5f, of_dy.Clone(), {}, g);
      return OnCpu(g.dweight);
    };
    const Tensor large_x = AtTheEnd(x);
    const Tensor large_residual = AtTheEnd(residual);
    const Tensor large_dy = AtTheEnd(dy);
    const Tensor large_dweight = run(large_x, large_residual, large_dy);
    const Tensor dweight = run(x, residual, dy);
    // Few rows are summed in an order of their own.
    EXPECT_TRUE(Near(Tail(large_x), OnCpu(x), kTolerance));
    EXPECT_TRUE(SameBits(Tail(large_residual), OnCpu(residual)));
    EXPECT_TRUE(SameBits(Tail(large_dy), OnCpu(dy)));
    EXPECT_TRUE(Near(large_dweight, dweight, 1e-5));
  });
}

TEST_F(LargeTensorsCudaTest, LayerNorm) {
  test::WithLargeMemory([] {
    Random random(2);
    const Tensor x = Random16(random, {kTail, kColumns});
    const Tensor residual = RandomF32(random, {kTail, kColumns});
    const Tensor dy = Random16(random, {kTail, kColumns});
    const Tensor weight = RandomF32(random, {kColumns});
    const auto run = [&](const Tensor& of_x, const Tensor& of_residual, const Tensor& of_dy) {
      LayerNormInputs in;
      in.x = of_x;
      in.residual = of_residual;
      in.weight = weight;
      LayerNorm(in, {of_x, of_residual});
      const auto sums = [] { return Tensor::Zeros({kColumns}, DType::kF32, kCuda); };
      const LayerNormGradients g = {{}, of_dy, sums(), sums()};
      LayerNormBackward(of_residual, weight, 1e-5f, of_dy.Clone(), {}, g);
      return OnCpu(g.dbias);
    };
    const Tensor large_x = AtTheEnd(x);
    const Tensor large_residual = AtTheEnd(residual);
    const Tensor large_dy = AtTheEnd(dy);
    const Tensor large_dbias = run(large_x, large_residual, large_dy);
    const Tensor dbias = run(x, residual, dy);
    EXPECT_TRUE(SameBits(Tail(large_x), OnCpu(x)));
    EXPECT_TRUE(SameBits(Tail(large_residual), OnCpu(residual)));
    EXPECT_TRUE(SameBits(Tail(large_dy), OnCpu(dy)));
    EXPECT_TRUE(Near(large_dbias, dbias, 1e-5));
  });
}

TEST_F(LargeTensorsCudaTest, GatedRmsNorm) {
  test::WithLargeMemory([] {
    Random random(3);
    const Tensor x = Random16(random, {kTail, kColumns});
    const Tensor z = Random16(random, {kTail, kColumns});
    const Tensor dy = Random16(random, {kTail, kColumns});
    const Tensor weight = RandomF32(random, {kColumns});
    const auto run = [&](const Tensor& of_x, const Tensor& of_z, const Tensor& of_dy,
                         const Tensor& y, const Tensor& dx, const Tensor& dz) {
      GatedRmsNormInputs in;
      in.x = of_x;
      in.z = of_z;
      in.weight = weight;
      GatedRmsNorm(in, y);
      GatedRmsNormBackward(in, of_dy, {dx, dz, {}});
    };
    const Tensor y = EmptyTail();
    const Tensor dx = EmptyTail();
    const Tensor dz = EmptyTail();
    run(x, z, dy, y, dx, dz);
    const Tensor large_y = Large();
    const Tensor large_dx = Large();
    const Tensor large_dz = Large();
    run(AtTheEnd(x), AtTheEnd(z), AtTheEnd(dy), large_y, large_dx, large_dz);
    EXPECT_TRUE(SameBits(Tail(large_y), OnCpu(y)));
    EXPECT_TRUE(SameBits(Tail(large_dx), OnCpu(dx)));
    EXPECT_TRUE(SameBits(Tail(large_dz), OnCpu(dz)));
  });
}

TEST_F(LargeTensorsCudaTest, RotaryAndElementwise) {
  test::WithLargeMemory([] {
    Random random(4);
    const Tensor x = Random16(random, {kTail, kColumns});
    const auto rotate = [](const Tensor& rows) {
      RotaryEmbedding embedding;
      const Tensor positions = Tensor::Empty({rows.dim(0)}, DType::kI64);
      for (int64_t i = 0; i < rows.dim(0); ++i) {
        positions.data<int64_t>()[i] = i - (rows.dim(0) - kTail);
      }
      embedding.positions = positions.To(kCuda);
      embedding.d_head = 64;
      embedding.rotary_dim = 64;
      Rotary(rows, embedding, rows);
    };
    const Tensor large = AtTheEnd(x);
    rotate(large);
    rotate(x);
    EXPECT_TRUE(SameBits(Tail(large), OnCpu(x)));
    AddTo(large, large.Clone());
    AddTo(x, x.Clone());
    EXPECT_TRUE(SameBits(Tail(large), OnCpu(x)));
  });
}

// Rows of x and of y past 2^31 elements.
TEST_F(LargeTensorsCudaTest, LinearOfManyRows) {
  test::WithLargeMemory([] {
    Random random(5);
    const Tensor W = Random16(random, {kColumns, kColumns});
    const Tensor x = Random16(random, {kTail, kColumns});
    const Tensor dy = Random16(random, {kTail, kColumns});
    const Tensor y = EmptyTail();
    const Tensor dx = EmptyTail();
    const Tensor dW = Tensor::Zeros({kColumns, kColumns}, DType::kF32, kCuda);
    Linear(x, W, {}, y);
    LinearBackward(x, W, dy, {.dx = dx, .dW = dW});
    const Tensor large_x = AtTheEnd(x);
    const Tensor large_y = Large();
    Linear(large_x, W, {}, large_y);
    EXPECT_TRUE(Near(Tail(large_y), OnCpu(y), kTolerance));
    const Tensor large_dW = Tensor::Zeros({kColumns, kColumns}, DType::kF32, kCuda);
    LinearBackward(large_x, W, AtTheEnd(dy), {.dx = large_y, .dW = large_dW});
    EXPECT_TRUE(Near(Tail(large_y), OnCpu(dx), kTolerance));
    EXPECT_TRUE(Near(OnCpu(large_dW), OnCpu(dW), 1e-5));
  });
}

// A weight past 2^31 elements, for the kernels of few rows and for products of many.
TEST_F(LargeTensorsCudaTest, LinearOfManyColumns) {
  test::WithLargeMemory([] {
    Random random(6);
    const Tensor tail = Random16(random, {kTail, kColumns});
    const Tensor W = AtTheEnd(tail);
    for (const int64_t rows : {1, 4, 20, 300}) {
      SCOPED_TRACE(rows);
      const Tensor x = Random16(random, {rows, kColumns});
      const Tensor y = Tensor::Empty({rows, kTail}, DType::kF32, kCuda);
      const Tensor large_y = Tensor::Empty({rows, kRows}, DType::kF32, kCuda);
      Linear(x, tail, {}, y);
      Linear(x, W, {}, large_y);
      const Tensor last = Tensor::Empty({rows, kTail}, DType::kF32, kCuda);
      last.CopyFrom(large_y.Columns(kFront, kTail));
      EXPECT_TRUE(Near(OnCpu(last), OnCpu(y), 1e-5));
    }
  });
}

TEST_F(LargeTensorsCudaTest, CausalConv1d) {
  test::WithLargeMemory([] {
    Random random(7);
    const Tensor tail = Random16(random, {kTail, kColumns});
    const Tensor tail_dy = Random16(random, {kTail, kColumns});
    CausalConv1dInputs in;
    in.weight = RandomF32(random, {kColumns, 4});
    in.bias = RandomF32(random, {kColumns});
    const auto run = [&](const Tensor& x, const Tensor& dy, const SequenceLayout& layout,
                         const Tensor& y, const Tensor& dx) {
      in.x = x;
      in.layout = layout;
      const Tensor dweight = Tensor::Zeros({kColumns, 4}, DType::kF32, kCuda);
      CausalConv1d(in, {.y = y, .final_window = {}});
      CausalConv1dBackward(in, dy, {},
                           {.dx = dx, .dweight = dweight, .dbias = {}, .d_initial_window = {}});
      return OnCpu(dweight);
    };
    const Tensor y = EmptyTail();
    const Tensor dx = EmptyTail();
    const Tensor dweight = run(tail, tail_dy, SequenceLayout::Single(kTail), y, dx);
    const Tensor large_y = Large();
    const Tensor large_dx = Large();
    const Tensor large_dweight =
        run(AtTheEnd(tail), AtTheEnd(tail_dy), Layout(), large_y, large_dx);
    EXPECT_TRUE(SameBits(Tail(large_y), OnCpu(y)));
    EXPECT_TRUE(SameBits(Tail(large_dx), OnCpu(dx)));
    EXPECT_TRUE(Near(large_dweight, dweight, 1e-5));
  });
}

// The states that the kernels for 16 states and those for any number keep.
TEST_F(LargeTensorsCudaTest, SelectiveScan) {
  for (const int64_t states : {16, 20}) {
    test::WithLargeMemory([&] {
      Random random(8);
      const auto activation = [&](int64_t columns) { return Random16(random, {kTail, columns}); };
      const Tensor x = activation(kColumns);
      const Tensor dt = activation(kColumns);
      const Tensor B = activation(states);
      const Tensor C = activation(states);
      const Tensor z = activation(kColumns);
      const Tensor dy = activation(kColumns);
      const Tensor A = RandomF32(random, {kColumns, states});
      NegativeExp(A, A);
      struct Results {
        Tensor y, dx, ddt, dz, dB, dA;
      };
      const auto run = [&](SelectiveScanInputs in, const Tensor& of_dy) {
        in.A = A;
        const Tensor chunk_states =
            Tensor::Empty({ScanChunks(in.layout), kColumns, states}, DType::kF32, kCuda);
        const auto like = [&](const Tensor& t) {
          return Tensor::Empty(t.shape(), t.dtype(), kCuda);
        };
        const Results r = {like(in.x), like(in.x),
                           like(in.x), like(in.x),
                           like(in.B), Tensor::Zeros({kColumns, states}, DType::kF32, kCuda)};
        SelectiveScan(in, {.y = r.y, .hT = {}, .chunk_states = chunk_states});
        SelectiveScanBackward(in, chunk_states, of_dy, {},
                              {.dx = r.dx, .ddt = r.ddt, .dA = r.dA, .dB = r.dB, .dz = r.dz});
        return Results{Tail(r.y), Tail(r.dx), Tail(r.ddt), Tail(r.dz), Tail(r.dB), OnCpu(r.dA)};
      };
      SelectiveScanInputs in;
      in.x = x;
      in.dt = dt;
      in.B = B;
      in.C = C;
      in.z = z;
      in.layout = SequenceLayout::Single(kTail);
      const Results alone = run(in, dy);
      in.x = AtTheEnd(x);
      in.dt = AtTheEnd(dt);
      in.B = AtTheEnd(B);
      in.C = AtTheEnd(C);
      in.z = AtTheEnd(z);
      in.layout = Layout();
      const Results large = run(in, AtTheEnd(dy));
      EXPECT_TRUE(Near(large.y, alone.y, kTolerance)) << states;
      EXPECT_TRUE(Near(large.dx, alone.dx, kTolerance)) << states;
      EXPECT_TRUE(Near(large.ddt, alone.ddt, kTolerance)) << states;
      EXPECT_TRUE(Near(large.dz, alone.dz, kTolerance)) << states;
      EXPECT_TRUE(Near(large.dB, alone.dB, kTolerance)) << states;
      EXPECT_TRUE(Near(large.dA, alone.dA, 1e-4)) << states;
    });
  }
}

TEST_F(LargeTensorsCudaTest, Ssd) {
  constexpr int64_t kHeads = 16;
  constexpr int64_t kStates = 32;
  test::WithLargeMemory([] {
    Random random(9);
    const auto activation = [&](int64_t columns) { return Random16(random, {kTail, columns}); };
    const Tensor x = activation(kColumns);
    const Tensor dt = activation(kHeads);
    const Tensor B = activation(kStates);
    const Tensor C = activation(kStates);
    const Tensor dy = activation(kColumns);
    const Tensor A = RandomF32(random, {kHeads});
    NegativeExp(A, A);
    struct Results {
      Tensor y, dx, ddt, dB;
    };
    const auto run = [&](SsdInputs in, const Tensor& of_dy) {
      in.A = A;
      in.head_dim = kColumns / kHeads;
      const Tensor chunk_states =
          Tensor::Empty({SsdChunks(in.layout), kHeads, in.head_dim, kStates}, DType::kF32, kCuda);
      const auto like = [&](const Tensor& t) { return Tensor::Empty(t.shape(), t.dtype(), kCuda); };
      const Results r = {like(in.x), like(in.x), like(in.dt), like(in.B)};
      Ssd(in, {.y = r.y, .hT = {}, .chunk_states = chunk_states});
      SsdGradients gradients;
      gradients.dx = r.dx;
      gradients.ddt = r.ddt;
      gradients.dB = r.dB;
      SsdBackward(in, chunk_states, of_dy, {}, gradients);
      return Results{Tail(r.y), Tail(r.dx), Tail(r.ddt), Tail(r.dB)};
    };
    SsdInputs in;
    in.x = x;
    in.dt = dt;
    in.B = B;
    in.C = C;
    in.layout = SequenceLayout::Single(kTail);
    const Results alone = run(in, dy);
    in.x = AtTheEnd(x);
    in.dt = AtTheEnd(dt);
    in.B = AtTheEnd(B);
    in.C = AtTheEnd(C);
    in.layout = Layout();
    const Results large = run(in, AtTheEnd(dy));
    EXPECT_TRUE(Near(large.y, alone.y, kTolerance));
    EXPECT_TRUE(Near(large.dx, alone.dx, kTolerance));
    EXPECT_TRUE(Near(large.ddt, alone.ddt, kTolerance));
    EXPECT_TRUE(Near(large.dB, alone.dB, kTolerance));
  });
}

TEST_F(LargeTensorsCudaTest, SoftmaxCrossEntropy) {
  constexpr int64_t kVocab = 80;
  test::WithLargeMemory([] {
    Random random(10);
    const Tensor hidden = Random16(random, {kTail, kColumns});
    const Tensor W = RandomNormal(random, {kVocab, kColumns}, 0, 0.05).To(DType::kBF16).To(kCuda);
    const auto run = [&](const Tensor& rows, const Tensor& d_hidden) {
      const int64_t count = rows.dim(0);
      std::vector<int32_t> targets(static_cast<size_t>(count), kIgnoreTarget);
      for (int64_t i = 0; i < kTail; ++i) {
        targets[static_cast<size_t>(count - 1 - i)] = static_cast<int32_t>(i * 2);
      }
      const SoftmaxCrossEntropyInputs in = {
          .hidden = rows,
          .W = W,
          .targets = Tensor::From({count}, std::span<const int32_t>(targets)).To(kCuda)};
      const Tensor loss = Tensor::Empty({count}, DType::kF32, kCuda);
      SoftmaxCrossEntropy(in, loss);
      SoftmaxCrossEntropyBackward(in, loss, {.d_hidden = d_hidden});
      return Tail(loss);
    };
    const Tensor d_hidden = EmptyTail();
    const Tensor loss = run(hidden, d_hidden);
    const Tensor large_d_hidden = Large();
    const Tensor large_loss = run(AtTheEnd(hidden), large_d_hidden);
    EXPECT_TRUE(Near(large_loss, loss, 1e-5));
    EXPECT_TRUE(Near(Tail(large_d_hidden), OnCpu(d_hidden), kTolerance));
  });
}

TEST_F(LargeTensorsCudaTest, AdamW) {
  test::WithLargeMemory([] {
    constexpr int64_t kElements = (int64_t{1} << 31) + kTail;
    Random random(11);
    const Tensor gradient = RandomF32(random, {kTail});
    const auto run = [&](int64_t elements) {
      const auto zeros = [&](DType dtype) { return Tensor::Zeros({elements}, dtype, kCuda); };
      const AdamWTensors t = {zeros(DType::kF32),
                              zeros(DType::kF32),
                              zeros(DType::kF32),
                              zeros(DType::kF32),
                              zeros(DType::kBF16),
                              1,
                              0.1};
      t.gradient.Rows(elements - kTail, kTail).CopyFrom(gradient);
      AdamWAll({}, {&t, 1});
      AdamW({}, t.gradient, t.weight, t.m, t.v, t.compute_weight);
      return std::vector{Tail(t.weight), Tail(t.m), Tail(t.v), Tail(t.compute_weight)};
    };
    const std::vector<Tensor> large = run(kElements);
    const AdamWTensors small = {gradient,
                                Tensor::Zeros({kTail}, DType::kF32, kCuda),
                                Tensor::Zeros({kTail}, DType::kF32, kCuda),
                                Tensor::Zeros({kTail}, DType::kF32, kCuda),
                                Tensor::Zeros({kTail}, DType::kBF16, kCuda),
                                1,
                                0.1};
    AdamWAll({}, {&small, 1});
    AdamW({}, small.gradient, small.weight, small.m, small.v, small.compute_weight);
    EXPECT_TRUE(SameBits(large[0], OnCpu(small.weight)));
    EXPECT_TRUE(SameBits(large[1], OnCpu(small.m)));
    EXPECT_TRUE(SameBits(large[2], OnCpu(small.v)));
    EXPECT_TRUE(SameBits(large[3], OnCpu(small.compute_weight)));
  });
}

TEST_F(LargeTensorsCudaTest, MostLikely) {
  test::WithLargeMemory([] {
    Random random(12);
    const Tensor logits = RandomF32(random, {kTail, kColumns});
    const Tensor tokens = Tensor::Empty({kTail}, DType::kI32, kCuda);
    MostLikely(logits, tokens);
    const Tensor large_tokens = Tensor::Empty({kRows}, DType::kI32, kCuda);
    MostLikely(AtTheEnd(logits), large_tokens);
    EXPECT_TRUE(SameBits(Tail(large_tokens), OnCpu(tokens)));
  });
}

TEST_F(LargeTensorsCudaTest, KeyValueCache) {
  test::WithLargeMemory([] {
    Random random(13);
    const Tensor rows = Random16(random, {kTail, kColumns});
    const Tensor cache = Tensor::Zeros({1, kRows, kColumns}, DType::kBF16, kCuda);
    AppendToCache(rows, SequenceLayout::Single(kTail), std::vector{kFront}, cache);
    EXPECT_TRUE(SameBits(Tail(CacheRows(cache)), OnCpu(rows)));
    const Tensor wider = Tensor::Empty({1, kRows + 5, kColumns}, DType::kBF16, kCuda);
    CopyFilledRows(cache, std::vector{kRows}, wider);
    EXPECT_TRUE(SameBits(OnCpu(CacheRows(wider).Rows(kFront, kTail)), OnCpu(rows)));
    const Tensor d_rows = EmptyTail();
    AppendToCacheBackward(cache, SequenceLayout::Single(kTail), std::vector{kFront}, d_rows);
    EXPECT_TRUE(SameBits(OnCpu(d_rows), OnCpu(rows)));
  });
}

}  // namespace
}  // namespace adder
