// The one thread team: OpenMP's, which oneDNN uses too.
#pragma once

#include <cstdint>
#include <functional>

namespace adder::cpu {

// Threads of the team, the same for every thread that asks. The default is the number of cores the
// process may use, or OMP_NUM_THREADS.
int ThreadCount();
// For the whole process, from the next ParallelFor on. Throws kInvalidArgument for less than 1.
void SetThreadCount(int threads);

// Elements of a pass over memory below which another thread costs more than it saves: the grain, in
// elements, of operators that do a few operations for each.
inline constexpr int64_t kElementsPerThread = 16384;
// f32 elements of a cache line: threads that write next to each other split there.
inline constexpr int64_t kCacheLineFloats = 16;

// Splits [0, count) into at most ThreadCount() contiguous ranges of nearly equal length, none
// shorter than `grain` unless count is, and calls body(begin, end, thread) for each, in parallel;
// `thread` numbers the ranges from 0. The split depends on count, grain and ThreadCount() only, so
// that results are reproducible. Nested calls run on the calling thread. An exception thrown by a
// body is rethrown to the caller once all bodies have ended.
void ParallelFor(int64_t count, int64_t grain,
                 const std::function<void(int64_t begin, int64_t end, int thread)>& body);

// While it lives, a library that asks OpenMP how many threads to use (oneDNN) is told
// ThreadCount(): OpenMP itself keeps that number for each thread apart.
class OpenMpThreads {
 public:
  OpenMpThreads();
  ~OpenMpThreads();
  OpenMpThreads(const OpenMpThreads&) = delete;
  OpenMpThreads& operator=(const OpenMpThreads&) = delete;

 private:
  int before_;
};

}  // namespace adder::cpu
