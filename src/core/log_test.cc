// Log levels: what ADDER_LOG and SetLogLevel let through. The logger reads the environment once, so
// each case is a process of its own.
#include "adder/core/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace adder {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// One line of each level, in a process with this ADDER_LOG (null: none).
[[noreturn]] void LogAll(const char* environment) {
  environment == nullptr ? unsetenv("ADDER_LOG") : setenv("ADDER_LOG", environment, 1);
  Log(LogLevel::kDebug, "a detail");
  Log(LogLevel::kInfo, "a fact");
  Log(LogLevel::kWarning, "a doubt");
  Log(LogLevel::kError, "a failure");
  std::exit(0);
}

void ExpectLog(const char* environment, const testing::Matcher<const std::string&>& matcher) {
  EXPECT_EXIT(LogAll(environment), testing::ExitedWithCode(0), matcher);
}

class LogTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(LogTest, DropsDetailsByDefault) {
  const auto matcher = AllOf(HasSubstr("info: a fact\n"), HasSubstr("warning: a doubt\n"),
                             HasSubstr("error: a failure\n"), Not(HasSubstr("a detail")));
  ExpectLog(nullptr, matcher);
  ExpectLog("", matcher);
}

TEST_F(LogTest, TheEnvironmentChoosesTheLevel) {
  ExpectLog("debug", HasSubstr("debug: a detail\n"));
  ExpectLog("info", AllOf(HasSubstr("a fact"), Not(HasSubstr("a detail"))));
  ExpectLog("warning", AllOf(HasSubstr("a doubt"), Not(HasSubstr("a fact"))));
  ExpectLog("error", AllOf(HasSubstr("a failure"), Not(HasSubstr("a doubt"))));
  ExpectLog("off", testing::IsEmpty());
}

// A mistyped level must not hide the errors that it was set to see.
TEST_F(LogTest, AnUnknownLevelIsReportedAndChangesNothing) {
  for (const char* wrong : {"trace", "verbose", "WARNING", "warn", "info "}) {
    ExpectLog(wrong,
              AllOf(HasSubstr("ADDER_LOG=" + std::string(wrong) +
                              ": expected debug, info, warning, error or off"),
                    HasSubstr("a fact"), HasSubstr("a failure"), Not(HasSubstr("a detail"))));
  }
}

TEST_F(LogTest, TheProgramMayChooseAnother) {
  EXPECT_EXIT(
      {
        SetLogLevel(LogLevel::kError);
        LogAll("debug");
      },
      testing::ExitedWithCode(0), AllOf(HasSubstr("a failure"), Not(HasSubstr("a doubt"))));
}

}  // namespace
}  // namespace adder
