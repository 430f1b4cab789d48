// Fuzzes the reader of task files: what it accepts are whole documents.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "adder/core/error.h"
#include "adder/eval/task.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const adder::Task& task : adder::Tasks()) {
    try {
      const auto documents = adder::ParseTask(task, text, "fuzz", 100);
      if (documents.empty() || documents.size() > 100) std::abort();
      for (const adder::TaskDocument& document : documents) {
        const size_t count = document.requests.size();
        if (count < (task.single() ? 1 : 2) || document.lengths.size() != count) std::abort();
        if (document.gold < 0 || document.gold >= static_cast<int64_t>(count)) std::abort();
        for (const adder::TaskRequest& request : document.requests) {
          if (!request.continuation.starts_with(' ')) std::abort();
        }
      }
    } catch (const adder::Error&) {
      continue;
    }
  }
  return 0;
}
