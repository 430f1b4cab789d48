// Metrics read back what was written, and are cut where a resumed run goes on.
#include "adder/train/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

StepMetrics Step(int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.tokens = 100 * step;
  metrics.loss = 1.0 / static_cast<double>(step + 2);
  metrics.bits_per_byte = 8.0 / static_cast<double>(step);
  metrics.lr = 1e-7;
  metrics.gradient_norm = 0.1;
  return metrics;
}

class MetricsTest : public ::testing::Test {
 protected:
  TemporaryDirectory directory_;
  const fs::path path_ = directory_.path() / "metrics.jsonl";
};

TEST_F(MetricsTest, LinesAreJsonWithExactNumbers) {
  const JsonObject line = JsonObject::Parse(ToJsonLine(Step(1)), "line");
  EXPECT_EQ(line.Int("step"), 1);
  EXPECT_EQ(line.Int("tokens"), 100);
  EXPECT_EQ(line.Double("loss"), 1.0 / 3.0);
  EXPECT_EQ(line.Double("lr"), 1e-7);
  const JsonObject evaluation =
      JsonObject::Parse(ToJsonLine(EvaluationMetrics{7, 1000, 2.0 / 3.0, 1.5}), "line");
  EXPECT_EQ(evaluation.Double("valid_bits_per_byte"), 2.0 / 3.0);
  EXPECT_EQ(evaluation.Int("valid_bytes"), 1000);
}

TEST_F(MetricsTest, AResumedRunCutsWhatLiesAhead) {
  std::string kept;
  {
    MetricsFile file(path_, {0, false});
    for (int64_t step = 1; step <= 6; ++step) {
      file.Write(Step(step));
      if (step == 4) file.Write(EvaluationMetrics{4, 10, 2.5, 0.0});
      if (step == 4) kept = ReadFile(path_);
    }
  }
  std::ofstream(path_, std::ios::app) << "{\"step\":7,\"tok";  // a crash
  {
    MetricsFile file(path_, {4, true});
    EXPECT_EQ(ReadFile(path_), kept);
    ASSERT_EQ(file.history().size(), 5u);
    EXPECT_EQ(std::get<EvaluationMetrics>(file.history()[4]).bits_per_byte, 2.5);
    EXPECT_EQ(std::get<StepMetrics>(file.history()[2]).loss, Step(3).loss);
    file.Write(Step(5));
  }
  EXPECT_EQ(ReadFile(path_), kept + ToJsonLine(Step(5)));
}

TEST_F(MetricsTest, AnEvaluationTheCheckpointDoesNotKnowIsCut) {
  {
    MetricsFile file(path_, {0, false});
    file.Write(EvaluationMetrics{3, 10, 2.5, 0.0});
    file.Write(Step(4));
    file.Write(EvaluationMetrics{4, 10, 2.0, 0.0});
  }
  EXPECT_EQ(MetricsFile(path_, {4, true}).history().size(), 3u);
  EXPECT_EQ(MetricsFile(path_, {4, false}).history().size(), 2u);
  EXPECT_EQ(MetricsFile(path_, {4, true}).history().size(), 2u);
}

TEST_F(MetricsTest, DamagedLinesEndTheHistory) {
  std::ofstream(path_) << ToJsonLine(Step(1)) << "garbage\n" << ToJsonLine(Step(2));
  const MetricsFile file(path_, {10, true});
  EXPECT_EQ(file.history().size(), 1u);
  EXPECT_EQ(ReadFile(path_), ToJsonLine(Step(1)));
}

TEST_F(MetricsTest, TheCurveShowsBothTexts) {
  std::vector<Metrics> history;
  for (int64_t step = 1; step <= 100; ++step) history.emplace_back(Step(step));
  history.emplace_back(EvaluationMetrics{100, 10, 0.5, 0.0});
  const std::string svg = RenderLossCurve(history, "a run");
  EXPECT_THAT(svg, HasSubstr(">training</text>"));
  EXPECT_THAT(svg, HasSubstr(">validation (0.500)</text>"));
  EXPECT_THAT(RenderLossCurve({}, "empty"), HasSubstr("</svg>"));
}

}  // namespace
}  // namespace adder
