// Drawing of progress with carriage returns; nothing fancier than every terminal knows.
#include "adder/cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace adder {
namespace {

constexpr auto kTerminalPeriod = std::chrono::milliseconds(100);
constexpr auto kLogPeriod = std::chrono::seconds(5);
constexpr size_t kMostBarCells = 40;
constexpr size_t kLeastBarCells = 10;

// Where nobody can read it any more (a full disk, a closed pipe), the job itself still counts.
void Show(const std::string& text) {
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
}

size_t TerminalWidth() {
  winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

bool TerminalIsUtf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    const std::string_view text = value;
    return text.find("UTF-8") != std::string_view::npos ||
           text.find("utf8") != std::string_view::npos;
  }
  return false;
}

// `cells` characters, the first `share` of them filled, by eighths of a cell where the terminal
// knows the characters.
std::string Bar(double share, size_t cells, bool unicode) {
  const double filled = std::clamp(share, 0.0, 1.0) * static_cast<double>(cells);
  const auto whole = static_cast<size_t>(filled);
  if (!unicode) return fmt::format("[{:-<{}}]", std::string(whole, '#'), cells);
  std::string bar;
  constexpr std::array<std::string_view, 8> kEighths = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  for (size_t i = 0; i < whole; ++i) bar += "█";
  if (whole < cells) {
    bar += kEighths[static_cast<size_t>((filled - static_cast<double>(whole)) * 8.0)];
    bar += std::string(cells - whole - 1, ' ');
  }
  return fmt::format("▕{}▏", bar);
}

}  // namespace

Progress::Progress(std::string job)
    : job_(std::move(job)),
      terminal_(isatty(STDERR_FILENO) == 1),
      unicode_(TerminalIsUtf8()),
      next_(Clock::now()) {}

Progress::~Progress() {
  if (visible_) Show("\n");
}

bool Progress::Due() const { return Clock::now() >= next_; }

void Progress::Draw(double share, const std::vector<std::string>& fields, double seconds_left) {
  next_ = Clock::now() + (terminal_ ? Clock::duration(kTerminalPeriod) : kLogPeriod);
  const std::string head = fmt::format("{} {:3.0f} %", job_, std::floor(100.0 * share));
  const std::string tail =
      seconds_left < 0.0 ? "" : fmt::format("  {} left", FormatSeconds(seconds_left));
  if (!terminal_) {
    std::string line = head;
    for (const std::string& field : fields) line += "  " + field;
    Show(line + tail + "\n");
    return;
  }
  // One column stays free: writing to the last one wraps on some terminals.
  const size_t width = TerminalWidth() - 1;
  size_t used = head.size() + tail.size();
  std::string middle;
  for (const std::string& field : fields) {
    if (used + field.size() + 2 > width) break;
    middle += "  " + field;
    used += field.size() + 2;
  }
  const size_t spare = width > used + 3 ? width - used - 3 : 0;
  std::string bar;
  if (spare >= kLeastBarCells)
    bar = fmt::format(" {}", Bar(share, std::min(spare, kMostBarCells), unicode_));
  // Carriage return, the line, and "erase to the end of the line".
  bar_ = fmt::format("\r{}{}{}{}\x1b[K", head, bar, middle, tail);
  Show(bar_);
  visible_ = true;
}

void Progress::Print(std::string_view line) {
  if (visible_) Show("\r\x1b[K");
  Show(std::string(line) + "\n");
  if (visible_) Show(bar_);
}

void Progress::Clear() {
  if (visible_) Show("\r\x1b[K");
  visible_ = false;
}

std::string FormatSeconds(double seconds) {
  const int64_t whole = std::llround(std::clamp(seconds, 0.0, 1e12));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string FormatCount(double count) {
  if (count < 999.5) return fmt::format("{:.0f}", count);
  if (count < 999.5e3) return fmt::format("{:.1f}k", count / 1e3);
  if (count < 999.5e6) return fmt::format("{:.1f}M", count / 1e6);
  return fmt::format("{:.1f}G", count / 1e9);
}

}  // namespace adder
