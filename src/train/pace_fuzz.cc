// Fuzzes pace.jsonl: what is accepted gives every step a part of the run.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "adder/core/error.h"
#include "adder/train/pace.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto recorded = adder::ParsePace({reinterpret_cast<const char*>(data), size}, "fuzz");
    for (const double budget : {60.0, recorded.empty() ? 1.0 : recorded.back().budget}) {
      for (const int64_t begin : {0, 3, 1000}) {
        adder::Pace pace = adder::Pace::Seconds(budget, recorded, begin, 30.0);
        for (int64_t step = begin; step < begin + 8 && !pace.Done(step); ++step) {
          pace.Observe(step, 30.0 + static_cast<double>(step - begin));
          if (pace.Done(step)) break;
          const adder::StepSpan span = pace.At(step);
          if (!(span.begin >= 0.0 && span.end >= span.begin && span.end <= 1.0)) std::abort();
          if (pace.TotalSteps(step) < 0) std::abort();
        }
      }
    }
  } catch (const adder::Error&) {
  }
  return 0;
}
