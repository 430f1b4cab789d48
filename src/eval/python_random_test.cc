// The generator against numbers that Python 3.11 printed.
#include "adder/eval/python_random.h"

#include <gtest/gtest.h>

#include <vector>

namespace adder {
namespace {

struct Known {
  uint32_t seed;
  std::vector<double> first;     // random() three times
  std::vector<int64_t> choices;  // then choices(range(7), k=8)
  double later;                  // then random() for the thousandth time
};

TEST(PythonRandom, DrawsWhatPythonDraws) {
  const std::vector<Known> all = {
      {0,
       {0.8444218515250481, 0.7579544029403025, 0.420571580830845},
       {1, 3, 2, 5, 2, 3, 4, 6},
       0.6588617536380149},
      {1,
       {0.13436424411240122, 0.8474337369372327, 0.763774618976614},
       {1, 3, 3, 4, 5, 0, 0, 5},
       0.2797912916552048},
      {99,
       {0.40397807494366633, 0.20007544457494542, 0.17880232058661227},
       {1, 5, 1, 2, 4, 3, 6, 3},
       0.10161999413060896},
      {4294967295,
       {0.6353574441341173, 0.20319993954407756, 0.6073666030347188},
       {2, 2, 2, 4, 6, 1, 6, 2},
       0.14001620281313276},
  };
  for (const Known& known : all) {
    PythonRandom random(known.seed);
    for (const double value : known.first) EXPECT_EQ(random.Next(), value);
    for (const int64_t choice : known.choices) EXPECT_EQ(random.NextIndex(7), choice);
    for (int i = 1; i < 1000; ++i) random.Next();
    EXPECT_EQ(random.Next(), known.later);
  }
}

}  // namespace
}  // namespace adder
