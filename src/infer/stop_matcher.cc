// Byte by byte: what is held back is always the longest suffix of the text that begins a stop.
#include "adder/infer/stop_matcher.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "adder/core/error.h"

namespace adder {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("a stop string has {} bytes, expected 1 to {}", stop.size(), kMaxStopBytes));
    }
  }
  std::stable_sort(stops_.begin(), stops_.end(),
                   [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
}

std::string StopMatcher::Push(std::string_view bytes) {
  std::string released;
  for (const char byte : bytes) {
    if (stopped_) break;
    held_ += byte;
    for (const std::string& stop : stops_) {
      if (!held_.ends_with(stop)) continue;
      released.append(held_, 0, held_.size() - stop.size());
      held_.clear();
      stopped_ = true;
      break;
    }
    // Release from the front until what is held begins a stop string.
    const auto begins_stop = [&](std::string_view text) {
      return std::any_of(stops_.begin(), stops_.end(),
                         [&](const std::string& stop) { return stop.starts_with(text); });
    };
    size_t certain = 0;
    while (certain < held_.size() && !begins_stop(std::string_view(held_).substr(certain))) {
      ++certain;
    }
    released.append(held_, 0, certain);
    held_.erase(0, certain);
  }
  return released;
}

}  // namespace adder
