// The numbers behind the picture, its labels, and that it is a whole picture.
#include "adder/eval/selection_picture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "adder/core/error.h"
#include "adder/infer/toy_model_test.h"

namespace adder {
namespace {

TEST(SelectionPicture, SummarizesChannels) {
  SelectionTrace trace;
  trace.step = {Tensor::From<float>({2, 2}, std::array{0.01f, 1.0f, 0.5f, 0.5f})};
  trace.decay = {Tensor::From<float>({2, 2}, std::array{0.2f, 0.6f, 1.0f, 0.0f})};
  const SelectionSummary summary = SummarizeSelection(trace);
  ASSERT_EQ(summary.step.size(), 1u);
  EXPECT_NEAR(summary.step[0][0], 0.1, 1e-7);  // the inputs are rounded to f32
  EXPECT_NEAR(summary.step[0][1], 0.5, 1e-7);
  EXPECT_NEAR(summary.decay[0][0], 0.4, 1e-7);
  EXPECT_NEAR(summary.decay[0][1], 0.5, 1e-7);
}

TEST(SelectionPicture, LabelsOfBytes) {
  const ByteTokenizer bytes;
  const auto labels = [&](std::string_view text) { return TokenLabels(bytes, bytes.Encode(text)); };
  EXPECT_THAT(labels("a b\n\t\x01"), testing::ElementsAre("a", "␣", "b", "⏎", "⇥", "01"));
  EXPECT_THAT(labels("xé€y"), testing::ElementsAre("x", "é", "·", "€", "·", "·", "y"));
  EXPECT_THAT(labels("\xff\x61"), testing::ElementsAre("ff", "a"));
  EXPECT_THAT(labels("a\xe2\x82"), testing::ElementsAre("a", "e2", "82"));
  EXPECT_THAT(labels("\xe2\x82x"), testing::ElementsAre("e2", "82", "x"));
}

TEST(SelectionPicture, LabelsOfWords) {
  const test::ToyTokenizer words({"The", " adder", "\n\n"});
  EXPECT_THAT(TokenLabels(words, std::array<int32_t, 3>{0, 1, 2}),
              testing::ElementsAre("The", "␣adder", "⏎⏎"));
}

TEST(SelectionPicture, HasACellPerLayerAndTokenInBothMaps) {
  SelectionSummary summary;
  summary.step.assign(3, std::vector<double>(200, 0.1));
  summary.decay.assign(3, std::vector<double>(200, 0.5));
  summary.step[1][7] = 0.25;
  const std::string svg = DrawSelection(summary, std::vector<std::string>(200, "<"), "A & B");
  EXPECT_THAT(svg, testing::StartsWith("<svg"));
  EXPECT_THAT(svg, testing::HasSubstr("A &amp; B"));
  EXPECT_THAT(svg, testing::HasSubstr("layer 1, token 8 &lt;: step 0.25, decay 0.5"));
  size_t cells = 0;
  for (size_t at = svg.find(", token "); at != std::string::npos;
       at = svg.find(", token ", at + 1)) {
    ++cells;
  }
  EXPECT_EQ(cells, 2u * 3u * 200u);
  EXPECT_EQ(svg.find("nan"), std::string::npos);  // one value alone is a scale too
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

TEST(SelectionPicture, RefusesWhatDoesNotFitTogether) {
  SelectionSummary summary;
  EXPECT_THROW(DrawSelection(summary, {}, ""), Error);
  summary.step.assign(1, {0.1, 0.2});
  summary.decay.assign(1, {0.1});
  EXPECT_THROW(DrawSelection(summary, {"a", "b"}, ""), Error);
  summary.decay.assign(2, {0.1, 0.2});
  EXPECT_THROW(DrawSelection(summary, {"a", "b"}, ""), Error);
}

}  // namespace
}  // namespace adder
