// The roofs are numbers that a machine of today can have, under their names and units.
#include "adder/backend/cpu/roofs.h"

#include <gtest/gtest.h>

#include <set>

#include "adder/backend/cpu/parallel.h"

namespace adder::cpu {
namespace {

TEST(RoofsTest, AreMeasuredAndLeaveTheTeamAsItWas) {
  const int threads = ThreadCount();
  std::set<std::string_view> names;
  for (const Roof roof : AllRoofs()) {
    // One thread of the slowest machine in use reaches 10 M a second of anything, no machine 1 P.
    const double rate = MeasureRoof(roof, 1, 0.01);
    EXPECT_GT(rate, 1e7) << RoofName(roof);
    EXPECT_LT(rate, 1e15) << RoofName(roof);
    EXPECT_TRUE(names.insert(RoofName(roof)).second) << RoofName(roof);
    EXPECT_FALSE(RoofUnit(roof).empty());
  }
  EXPECT_EQ(ThreadCount(), threads);
}

}  // namespace
}  // namespace adder::cpu
