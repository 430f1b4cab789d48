#include "adder/backend/cpu/parallel.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <string>

#include "adder/core/error.h"

namespace adder::cpu {

namespace {

std::atomic<int>& Threads() {
  static std::atomic<int> threads{omp_get_max_threads()};
  return threads;
}

}  // namespace

int ThreadCount() { return Threads().load(std::memory_order_relaxed); }

void SetThreadCount(int threads) {
  if (threads < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                "the number of threads is " + std::to_string(threads) + ", expected at least 1");
  }
  Threads().store(threads, std::memory_order_relaxed);
}

OpenMpThreads::OpenMpThreads() : before_(omp_get_max_threads()) {
  omp_set_num_threads(ThreadCount());
}

OpenMpThreads::~OpenMpThreads() { omp_set_num_threads(before_); }

void ParallelFor(int64_t count, int64_t grain,
                 const std::function<void(int64_t, int64_t, int)>& body) {
  if (count <= 0) return;
  const int64_t most_ranges = std::max<int64_t>(1, count / std::max<int64_t>(1, grain));
  const auto ranges = static_cast<int>(std::min<int64_t>(ThreadCount(), most_ranges));
  if (ranges == 1 || omp_in_parallel() != 0) {
    body(0, count, 0);
    return;
  }
  std::exception_ptr failure;
  std::mutex failure_mutex;
#pragma omp parallel for num_threads(ranges) schedule(static, 1)
  for (int range = 0; range < ranges; ++range) {
    try {
      body(count * range / ranges, count * (range + 1) / ranges, range);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace adder::cpu
