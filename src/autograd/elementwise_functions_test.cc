// The recorded elementwise functions: gradients against differences, of columns of a projection
// too.
#include <gtest/gtest.h>

#include <vector>

#include "adder/autograd/functions.h"
#include "adder/autograd/gradient_check_test.h"

namespace adder {
namespace {

using test::ExpectLeafGradients;
using test::RandomLeaf;

TEST(ElementwiseFunctionsTest, Activations) {
  Random random(1);
  for (const Activation activation :
       {Activation::kGelu, Activation::kGeluTanh, Activation::kSilu}) {
    const Variable x = RandomLeaf(random, {5, 9});
    ExpectLeafGradients(
        [&](Tape* tape) {
          // x also flows past the function, so that its gradient is added to.
          return std::vector<Variable>{Activate(tape, x, activation), x};
        },
        {{x.value(), [&] { return x.grad(); }}});
  }
}

TEST(ElementwiseFunctionsTest, SwiGluOfColumns) {
  Random random(2);
  const Variable both = RandomLeaf(random, {5, 14});
  ExpectLeafGradients(
      [&](Tape* tape) {
        return std::vector<Variable>{SwiGlu(tape, both.Columns(0, 7), both.Columns(7, 7))};
      },
      {{both.value(), [&] { return both.grad(); }}});
}

TEST(ElementwiseFunctionsTest, Add) {
  Random random(3);
  const Variable a = RandomLeaf(random, {5, 7});
  const Variable b = RandomLeaf(random, {5, 7});
  ExpectLeafGradients(
      [&](Tape* tape) {
        const Variable sum = Add(tape, a, Activate(tape, b, Activation::kGelu));
        return std::vector<Variable>{Add(tape, sum, sum)};
      },
      {{a.value(), [&] { return a.grad(); }}, {b.value(), [&] { return b.grad(); }}});
}

TEST(ElementwiseFunctionsTest, Rotary) {
  Random random(4);
  const std::vector<int64_t> at = {0, 1, 2, 7, 3};
  const Tensor positions = Tensor::From<int64_t>({5}, at);
  for (const bool interleaved : {false, true}) {
    const Variable qkv = RandomLeaf(random, {5, 36});
    ExpectLeafGradients(
        [&](Tape* tape) {
          return std::vector<Variable>{
              Rotary(tape, qkv.Columns(0, 12), positions, 6, 4, 100, interleaved),
              Rotary(tape, qkv.Columns(12, 12), positions, 12, 12, 100, interleaved)};
        },
        {{qkv.value(), [&] { return qkv.grad(); }}});
  }
}

}  // namespace
}  // namespace adder
