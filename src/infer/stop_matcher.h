// Finds stop strings in text that arrives in pieces of any size, and never lets a part of one out.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace adder {

// The longest stop string: what a conversation can hold back.
inline constexpr size_t kMaxStopBytes = 1024;

class StopMatcher {
 public:
  // Throws kInvalidArgument for a stop string that is empty or longer than kMaxStopBytes.
  explicit StopMatcher(std::vector<std::string> stops);

  // The bytes that became certain not to belong to a stop string, in order. The first stop string
  // to be complete ends the text (of two that end together, the longer): it and what follows are
  // dropped, stopped() is true from then on and nothing more comes out. How the text is cut into
  // pieces makes no difference.
  std::string Push(std::string_view bytes);

  bool stopped() const { return stopped_; }
  // Bytes that may be the beginning of a stop string.
  const std::string& held() const { return held_; }

 private:
  std::vector<std::string> stops_;  // by falling length
  std::string held_;
  bool stopped_ = false;
};

}  // namespace adder
