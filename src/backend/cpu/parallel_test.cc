// The thread team: its size as every thread sees it, the split of the work, nesting, exceptions.
#include "adder/backend/cpu/parallel.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "adder/core/error.h"

namespace adder::cpu {
namespace {

class ParallelTest : public testing::Test {
 protected:
  void TearDown() override { SetThreadCount(before_); }

 private:
  int before_ = ThreadCount();
};

// [begin, end) of each range, by its number.
std::vector<std::pair<int64_t, int64_t>> Ranges(int64_t count, int64_t grain) {
  std::vector<std::pair<int64_t, int64_t>> ranges(static_cast<size_t>(ThreadCount()), {-1, -1});
  ParallelFor(count, grain, [&](int64_t begin, int64_t end, int thread) {
    ranges.at(static_cast<size_t>(thread)) = {begin, end};
  });
  while (!ranges.empty() && ranges.back().first < 0) ranges.pop_back();
  return ranges;
}

TEST_F(ParallelTest, SplitsIntoRangesOfNearlyEqualLength) {
  using Expected = std::vector<std::pair<int64_t, int64_t>>;
  SetThreadCount(4);
  EXPECT_EQ(Ranges(0, 1), Expected{});
  EXPECT_EQ(Ranges(-3, 1), Expected{});
  EXPECT_EQ(Ranges(1, 1), (Expected{{0, 1}}));
  EXPECT_EQ(Ranges(3, 1), (Expected{{0, 1}, {1, 2}, {2, 3}}));
  EXPECT_EQ(Ranges(10, 1), (Expected{{0, 2}, {2, 5}, {5, 7}, {7, 10}}));
  // No range shorter than the grain, unless all is.
  EXPECT_EQ(Ranges(10, 4), (Expected{{0, 5}, {5, 10}}));
  EXPECT_EQ(Ranges(10, 6), (Expected{{0, 10}}));
  EXPECT_EQ(Ranges(10, 100), (Expected{{0, 10}}));
  // A grain of nothing counts as one.
  EXPECT_EQ(Ranges(2, 0), (Expected{{0, 1}, {1, 2}}));
  // 64-bit products: the ranges' ends are count · range / ranges.
  const int64_t many = int64_t{1} << 60;
  EXPECT_EQ(Ranges(many, 1).at(3), std::pair(many / 4 * 3, many));
}

TEST_F(ParallelTest, EveryThreadSeesTheSameTeam) {
  SetThreadCount(3);
  int seen = 0;
  size_t ranges = 0;
  std::thread([&] {
    seen = ThreadCount();
    ranges = Ranges(300, 1).size();
    SetThreadCount(5);
  }).join();
  EXPECT_EQ(seen, 3);
  EXPECT_EQ(ranges, 3u);
  EXPECT_EQ(ThreadCount(), 5);
}

TEST_F(ParallelTest, LibrariesAreToldTheTeam) {
  SetThreadCount(3);
  std::thread([] {
    const int own = omp_get_max_threads();
    {
      const OpenMpThreads threads;
      EXPECT_EQ(omp_get_max_threads(), 3);
    }
    EXPECT_EQ(omp_get_max_threads(), own);
  }).join();
}

TEST_F(ParallelTest, NestedCallsRunOnTheCallingThread) {
  SetThreadCount(3);
  std::vector<std::thread::id> outer(3), inner(3);
  std::atomic<int> calls{0};
  ParallelFor(3, 1, [&](int64_t begin, int64_t, int) {
    outer[static_cast<size_t>(begin)] = std::this_thread::get_id();
    ParallelFor(100, 1, [&](int64_t inner_begin, int64_t inner_end, int thread) {
      EXPECT_EQ(std::tuple(inner_begin, inner_end, thread), std::tuple(0, 100, 0));
      inner[static_cast<size_t>(begin)] = std::this_thread::get_id();
      ++calls;
    });
  });
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(inner, outer);
}

TEST_F(ParallelTest, AnExceptionReachesTheCallerOnceAllBodiesHaveEnded) {
  for (const int threads : {1, 4}) {
    SetThreadCount(threads);
    std::atomic<int> ended{0};
    try {
      ParallelFor(4, 1, [&](int64_t, int64_t end, int) {
        if (end == 4) throw std::out_of_range("the last range");
        ++ended;
      });
      ADD_FAILURE() << "nothing was thrown";
    } catch (const std::out_of_range& error) {
      EXPECT_STREQ(error.what(), "the last range");
    }
    EXPECT_EQ(ended, threads - 1);
  }
  // Where several throw, one of theirs arrives, and the team goes on working.
  EXPECT_THROW(ParallelFor(4, 1, [](int64_t, int64_t, int) { throw std::runtime_error("any"); }),
               std::runtime_error);
  EXPECT_EQ(Ranges(4, 1).size(), 4u);
}

TEST_F(ParallelTest, RefusesATeamOfNobody) {
  const int before = ThreadCount();
  for (const int threads : {0, -1}) {
    try {
      SetThreadCount(threads);
      ADD_FAILURE() << threads << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find(std::to_string(threads)), std::string::npos);
    }
  }
  EXPECT_EQ(ThreadCount(), before);
}

}  // namespace
}  // namespace adder::cpu
