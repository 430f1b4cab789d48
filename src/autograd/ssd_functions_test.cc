// The recorded state space dual: gradients of variables, parameters and memory against differences;
// memory replaced and overwritten.
#include <gmock/gmock.h>

#include <cmath>
#include <vector>

#include "adder/autograd/functions.h"
#include "adder/autograd/gradient_check_test.h"

namespace adder {
namespace {

using test::CheckedLeaf;
using test::ErrorOf;
using test::ExpectLeafGradients;
using test::RandomLeaf;
using test::RandomNormal;
using test::RandomParameter;
using test::SameBits;

constexpr int64_t kHeads = 4;
constexpr int64_t kHead = 3;
constexpr int64_t kGroups = 2;
constexpr int64_t kStates = 5;

struct Layer {
  Parameter A_log, D, dt_bias;

  explicit Layer(Random& random)
      : A_log(RandomParameter(random, {kHeads})),
        D(RandomParameter(random, {kHeads})),
        dt_bias(RandomParameter(random, {kHeads})) {}

  // x, B, C and dt are columns of one matrix.
  Variable Forward(Tape* tape, const Variable& xBCdt, const SequenceLayout& layout, Variable* h,
                   MemoryUpdate update = MemoryUpdate::kReplace) {
    A_log.compute = A_log.value.Clone();
    for (int64_t i = 0; i < kHeads; ++i) {
      A_log.compute.data<float>()[i] = -std::exp(A_log.value.data<float>()[i]);
    }
    const int64_t D_inner = kHeads * kHead;
    const int64_t width = kGroups * kStates;
    return Ssd(tape,
               {.x = xBCdt.Columns(0, D_inner),
                .dt = xBCdt.Columns(D_inner + 2 * width, kHeads),
                .B = xBCdt.Columns(D_inner, width),
                .C = xBCdt.Columns(D_inner + width, width)},
               {&A_log, &D, &dt_bias}, layout, {.head_dim = kHead, .groups = kGroups}, h, update);
  }
};
constexpr int64_t kColumns = kHeads * kHead + 2 * kGroups * kStates + kHeads;

TEST(SsdFunctionsTest, Gradients) {
  Random random(1);
  const SequenceLayout layout({0, 5, 5, 12});
  for (const bool memory : {false, true}) {
    Layer layer(random);
    const Variable xBCdt = RandomLeaf(random, {12, kColumns});
    const Variable h0 = RandomLeaf(random, {3, kHeads, kHead, kStates});
    std::vector<CheckedLeaf> leaves = {{xBCdt.value(), [&] { return xBCdt.grad(); }},
                                       {layer.A_log.value, [&] { return layer.A_log.grad; }},
                                       {layer.D.value, [&] { return layer.D.grad; }},
                                       {layer.dt_bias.value, [&] { return layer.dt_bias.grad; }}};
    if (memory) leaves.push_back({h0.value(), [&] { return h0.grad(); }});
    ExpectLeafGradients(
        [&](Tape* tape) {
          if (!memory) return std::vector<Variable>{layer.Forward(tape, xBCdt, layout, nullptr)};
          Variable h = h0;
          const Variable y = layer.Forward(tape, xBCdt, layout, &h);
          return std::vector<Variable>{y, h};
        },
        leaves);
  }
}

TEST(SsdFunctionsTest, MemoryIsReplacedOrOverwritten) {
  Random random(2);
  Layer layer(random);
  const SequenceLayout layout({0, 1, 3});
  const Variable xBCdt(RandomNormal(random, {3, kColumns}).To(DType::kF32));
  Variable replaced;
  Variable overwritten;
  for (int step = 0; step < 3; ++step) {
    const Variable old = replaced;
    const Tensor elements = old.defined() ? old.value().Clone() : Tensor();
    const void* before = overwritten.value().raw();
    const Variable y = layer.Forward(nullptr, xBCdt, layout, &replaced);
    const Variable other =
        layer.Forward(nullptr, xBCdt, layout, &overwritten, MemoryUpdate::kOverwrite);
    EXPECT_TRUE(SameBits(y.value(), other.value()));
    EXPECT_TRUE(SameBits(replaced.value(), overwritten.value()));
    if (old.defined()) {
      EXPECT_TRUE(SameBits(old.value(), elements));
      EXPECT_EQ(overwritten.value().raw(), before);
    }
  }
  Tape tape;
  EXPECT_THAT(
      ErrorOf([&] { layer.Forward(&tape, xBCdt, layout, &overwritten, MemoryUpdate::kOverwrite); }),
      testing::HasSubstr("cannot be overwritten"));
}

}  // namespace
}  // namespace adder
