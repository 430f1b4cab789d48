// Locking, checkpoints that are whole or absent, pruning, the link.
#include "adder/train/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class RunFolderTest : public ::testing::Test {
 protected:
  static fs::path Write(RunFolder& folder, int64_t step, int64_t keep) {
    return folder.WriteCheckpoint(
        step, keep, [&](const fs::path& directory) { std::ofstream(directory / "step") << step; });
  }

  TemporaryDirectory directory_;
  const fs::path path_ = directory_.path() / "run";
};

TEST_F(RunFolderTest, NewestCheckpointsAreKeptAndLinked) {
  RunFolder folder(path_);
  EXPECT_TRUE(folder.LatestCheckpoint().empty());
  for (const int64_t step : {5, 10, 123456789}) Write(folder, step, 2);
  EXPECT_FALSE(fs::exists(path_ / "checkpoints/step-00000005"));
  EXPECT_TRUE(fs::exists(path_ / "checkpoints/step-00000010"));
  EXPECT_EQ(folder.LatestCheckpoint(), path_ / "checkpoints/step-123456789");
  EXPECT_EQ(ReadFile(path_ / "latest/step"), "123456789");
  // Writing a step again replaces it.
  Write(folder, 123456789, 2);
  EXPECT_TRUE(fs::exists(path_ / "checkpoints/step-00000010"));
}

TEST_F(RunFolderTest, AFailedCheckpointLeavesTheOldOnes) {
  RunFolder folder(path_);
  Write(folder, 1, 1);
  EXPECT_THROW(folder.WriteCheckpoint(2, 1,
                                      [](const fs::path& directory) {
                                        std::ofstream(directory / "half") << "written";
                                        throw Error(ErrorCode::kIo, "disk full");
                                      }),
               Error);
  EXPECT_EQ(folder.LatestCheckpoint(), path_ / "checkpoints/step-00000001");
  EXPECT_EQ(ReadFile(path_ / "latest/step"), "1");
}

TEST_F(RunFolderTest, RemainsOfAKilledRunAreRemovedAndIgnored) {
  { RunFolder folder(path_); }
  fs::create_directories(path_ / "checkpoints/.step-00000007.4711.0.tmp");
  fs::create_directories(path_ / ".model.4711.12.tmp");
  std::ofstream(path_ / ".loss.svg.4711.0.tmp") << "half";
  // What others hide here is theirs.
  fs::create_directories(path_ / ".notes.tmp");
  std::ofstream(path_ / ".loss.svg.tmp.swp") << "an editor's";
  // Killed while step 5 was replaced where names cannot be exchanged.
  fs::create_directories(path_ / "checkpoints/.step-00000005.4711.0.tmp.old");
  fs::create_directories(path_ / "checkpoints/step-8x");
  std::ofstream(path_ / "checkpoints/step-00000009") << "a file";
  RunFolder folder(path_);
  EXPECT_EQ(folder.LatestCheckpoint(), path_ / "checkpoints/step-00000005");
  EXPECT_FALSE(fs::exists(path_ / "checkpoints/.step-00000007.4711.0.tmp"));
  EXPECT_FALSE(fs::exists(path_ / ".model.4711.12.tmp"));
  EXPECT_FALSE(fs::exists(path_ / ".loss.svg.4711.0.tmp"));
  EXPECT_TRUE(fs::exists(path_ / ".notes.tmp"));
  EXPECT_TRUE(fs::exists(path_ / ".loss.svg.tmp.swp"));
}

TEST_F(RunFolderTest, OnlyOneMayTrainInAFolder) {
  auto folder = std::make_unique<RunFolder>(path_);
  try {
    RunFolder second(path_);
    FAIL() << "two runs hold the folder";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("another process trains in this folder"));
  }
  folder.reset();
  EXPECT_NO_THROW(RunFolder{path_});
}

TEST_F(RunFolderTest, AFolderThatCannotBeCreatedIsNamed) {
  std::ofstream(path_) << "a file in the way";
  try {
    RunFolder folder(path_);
    FAIL() << "a file was taken for a folder";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_THAT(error.what(), HasSubstr(path_.string()));
  }
}

}  // namespace
}  // namespace adder
