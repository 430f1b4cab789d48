// Fuzzes metrics.jsonl: what is kept lies in the file and reads the same again, and a curve can be
// drawn of it.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <variant>

#include "adder/train/metrics.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const adder::RunPosition last : {adder::RunPosition{INT64_MAX, true}, {4, false}}) {
    size_t kept = 0;
    const auto history = adder::ParseMetrics(text, last, &kept);
    if (kept > size) std::abort();
    std::string written;
    for (const auto& metrics : history) {
      if (!last.Covers(metrics)) std::abort();
      written += std::visit([](const auto& m) { return adder::ToJsonLine(m); }, metrics);
    }
    size_t again = 0;
    if (adder::ParseMetrics(written, last, &again).size() != history.size()) std::abort();
    if (again != written.size()) std::abort();
    adder::RenderLossCurve(history, "fuzz");
  }
  return 0;
}
