// Event files: framing against known checksums, reading back, cutting at a step, damaged tails.
#include "adder/formats/tensorboard.h"

#include <gtest/gtest.h>

#include <fstream>

#include "adder/core/error.h"
#include "adder/formats/crc32c.h"
#include "adder/formats/file.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

bool KeepAll(const TensorBoardEvent&) { return true; }

class TensorBoardTest : public ::testing::Test {
 protected:
  TemporaryDirectory directory_;
  const std::filesystem::path folder_ = directory_.path();
};

TEST(Crc32cTest, KnownValues) {
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  // RFC 3720, appendix B.4.
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(Crc32c(""), 0u);
}

TEST_F(TensorBoardTest, ReadsBackWhatItWrote) {
  std::filesystem::path path;
  {
    TensorBoardWriter writer(folder_, KeepAll);
    path = writer.path();
    writer.Write({1.5, 1, {{"train/loss", 2.25f}, {"train/lr", 1e-3f}}});
    writer.Write({2.5, int64_t{1} << 40, {{std::string(300, 'x'), -0.0f}}});
  }
  const std::string bytes = ReadFile(path);
  size_t whole = 0;
  const auto events = ParseTensorBoardEvents(bytes, &whole);
  EXPECT_EQ(whole, bytes.size());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].wall_time, 1.5);
  EXPECT_EQ(events[0].step, 1);
  ASSERT_EQ(events[0].scalars.size(), 2u);
  EXPECT_EQ(events[0].scalars[0].tag, "train/loss");
  EXPECT_EQ(events[0].scalars[0].value, 2.25f);
  EXPECT_EQ(events[0].scalars[1].value, 1e-3f);
  EXPECT_EQ(events[1].step, int64_t{1} << 40);
  EXPECT_EQ(events[1].scalars[0].tag, std::string(300, 'x'));
  // The first record tells readers the format: an 8-byte length, its checksum, then the event whose
  // field 3 is the version.
  EXPECT_EQ(bytes.substr(12 + 9 + 2, 13), "brain.Event:2");
}

TEST_F(TensorBoardTest, GoesOnAfterTheGivenStepInTheSameFile) {
  std::filesystem::path path;
  {
    TensorBoardWriter writer(folder_, KeepAll);
    path = writer.path();
    for (int64_t step = 1; step <= 5; ++step) writer.Write({double(step), step, {{"a", 1.0f}}});
  }
  // A crash in the middle of a record.
  std::ofstream(path, std::ios::app | std::ios::binary) << std::string("\x20\0\0\0\0\0\0", 7);
  {
    TensorBoardWriter writer(folder_, [](const TensorBoardEvent& e) { return e.step <= 3; });
    EXPECT_EQ(writer.path(), path);
    writer.Write({4.0, 4, {{"a", 2.0f}}});
  }
  size_t whole = 0;
  const std::string bytes = ReadFile(path);
  const auto events = ParseTensorBoardEvents(bytes, &whole);
  EXPECT_EQ(whole, bytes.size());
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[2].step, 3);
  EXPECT_EQ(events[3].step, 4);
  EXPECT_EQ(events[3].scalars[0].value, 2.0f);
}

TEST_F(TensorBoardTest, StopsAtTheFirstDamagedRecord) {
  std::filesystem::path path;
  {
    TensorBoardWriter writer(folder_, KeepAll);
    path = writer.path();
    for (int64_t step = 1; step <= 3; ++step) writer.Write({0.0, step, {{"a", 1.0f}}});
  }
  const std::string bytes = ReadFile(path);
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    EXPECT_LT(ParseTensorBoardEvents(std::string_view(bytes).substr(0, cut), nullptr).size(), 3u);
  }
  for (size_t flip = 0; flip < bytes.size(); ++flip) {
    std::string damaged = bytes;
    damaged[flip] = static_cast<char>(damaged[flip] ^ 0x10);
    EXPECT_LT(ParseTensorBoardEvents(damaged, nullptr).size(), 3u) << flip;
  }
}

TEST(TensorBoardWriterTest, UnwritableFolderIsAnError) {
  EXPECT_THROW(TensorBoardWriter("/nonexistent/folder", KeepAll), Error);
}

}  // namespace
}  // namespace adder
