// Fuzzes the reader of results files: what it accepts has the shape of the evaluation.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "adder/core/error.h"
#include "adder/eval/task_results.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  adder::TaskResultsHeader header;
  header.fingerprint = 1;
  header.dtype = "f32";
  header.max_length = 8;
  header.tasks = {{"piqa", {2, 2}, 1, false}, {"lambada_openai", {1}, 1, true}};
  try {
    uint64_t keep = 0;
    const adder::TaskResults results =
        adder::ParseTaskResults({reinterpret_cast<const char*>(data), size}, "fuzz", header, &keep);
    if (keep > size || results.size() != header.tasks.size()) std::abort();
    for (size_t t = 0; t < results.size(); ++t) {
      if (results[t].size() > header.tasks[t].choices.size()) std::abort();
      for (const auto& document : results[t]) {
        if (static_cast<int64_t>(document.size()) != header.tasks[t].choices[0]) std::abort();
      }
    }
  } catch (const adder::Error&) {
    return 0;
  }
  return 0;
}
