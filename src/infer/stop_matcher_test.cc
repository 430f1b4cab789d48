// Stop strings across every possible cut of the text.
#include "adder/infer/stop_matcher.h"

#include <gtest/gtest.h>

#include "adder/core/error.h"

namespace adder {
namespace {

struct Outcome {
  std::string text;
  std::string held;
  bool stopped = false;

  friend bool operator==(const Outcome&, const Outcome&) = default;
};

void PrintTo(const Outcome& outcome, std::ostream* out) {
  *out << '"' << outcome.text << "\" holding \"" << outcome.held << '"'
       << (outcome.stopped ? ", stopped" : "");
}

// Expects one outcome for the text in one piece, byte by byte, and cut once at every place.
void ExpectForEveryCut(const std::vector<std::string>& stops, const std::string& text,
                       const Outcome& expected) {
  const auto run = [&](const std::vector<std::string>& pieces) {
    StopMatcher matcher(stops);
    Outcome outcome;
    for (const std::string& piece : pieces) outcome.text += matcher.Push(piece);
    outcome.held = matcher.held();
    outcome.stopped = matcher.stopped();
    return outcome;
  };
  EXPECT_EQ(run({text}), expected) << text;
  std::vector<std::string> bytes;
  for (const char c : text) bytes.emplace_back(1, c);
  EXPECT_EQ(run(bytes), expected) << text;
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    EXPECT_EQ(run({text.substr(0, cut), text.substr(cut)}), expected) << text << " cut at " << cut;
  }
}

TEST(StopMatcher, WithoutStopsEverythingPasses) {
  ExpectForEveryCut({}, "any text", {"any text", "", false});
}

TEST(StopMatcher, StopsBeforeTheStopStringAndDropsTheRest) {
  ExpectForEveryCut({"END"}, "some ENENDING", {"some EN", "", true});
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAStop) {
  ExpectForEveryCut({"\n\n", "User:"}, "hello\n", {"hello", "\n", false});
  ExpectForEveryCut({"\n\n", "User:"}, "hello\nUse", {"hello\n", "Use", false});
  ExpectForEveryCut({"\n\n", "User:"}, "hello\nUse it", {"hello\nUse it", "", false});
}

TEST(StopMatcher, SelfOverlappingStops) {
  ExpectForEveryCut({"aab"}, "aaab", {"a", "", true});
  ExpectForEveryCut({"abab"}, "abaabab", {"aba", "", true});
  ExpectForEveryCut({"aaaa"}, "baaa", {"b", "aaa", false});
}

TEST(StopMatcher, TheFirstToCompleteWinsAndThenTheLonger) {
  ExpectForEveryCut({"xaby", "ab"}, "xaby", {"x", "", true});
  ExpectForEveryCut({"b", "aab"}, "aab", {"", "", true});
}

TEST(StopMatcher, RefusesStopsThatCannotBeMatched) {
  EXPECT_THROW(StopMatcher({""}), Error);
  EXPECT_THROW(StopMatcher({std::string(kMaxStopBytes + 1, 'x')}), Error);
}

}  // namespace
}  // namespace adder
