// How far a long job has come, on standard error: a bar that redraws itself on a terminal, a plain
// line every few seconds in a log.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace adder {

class Progress {
 public:
  // `job` begins the line: "training".
  explicit Progress(std::string job);
  ~Progress();  // leaves the bar as it was last drawn, on a line of its own
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Whether it is time to draw again: ten times a second on a terminal, every five seconds in a
  // log. Callers need not prepare fields otherwise.
  bool Due() const;
  // Draws. share: 0 to 1 of the job. fields: "2.31 bits/byte", in order of importance: the last
  // are dropped where the terminal is narrow. seconds_left below 0: not known.
  void Draw(double share, const std::vector<std::string>& fields, double seconds_left);
  // Prints a line; a bar stays below it.
  void Print(std::string_view line);
  // The job is done: the bar is removed, and nothing is drawn any more.
  void Clear();

 private:
  using Clock = std::chrono::steady_clock;

  std::string job_;
  bool terminal_;
  bool unicode_;
  bool visible_ = false;
  std::string bar_;
  Clock::time_point next_;
};

// "0:07", "12:34", "3:04:05".
std::string FormatSeconds(double seconds);
// "950", "48.2k", "3.1M".
std::string FormatCount(double count);

}  // namespace adder
