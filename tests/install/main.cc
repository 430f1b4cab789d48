// What using an installed Adder takes.
#include <cstdio>

#include "adder/core/tensor.h"
#include "adder/core/version.h"

int main() {
  const auto zeros = adder::Tensor::Zeros(adder::Shape{2, 3}, adder::DType::kF32);
  std::printf("adder %s made %s\n", adder::Version().data(), zeros.ToString().c_str());
  return zeros.elements() == 6 ? 0 : 1;
}
