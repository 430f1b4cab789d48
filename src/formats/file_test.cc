// Files: mapped and read whole; written whole or not at all, on full disks and under kill -9 too.
#include "adder/formats/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <set>
#include <string>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "tests/own_filesystem.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using testing::HasSubstr;

std::string MessageOf(ErrorCode code, const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

std::set<std::string> NamesIn(const std::filesystem::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

using Names = std::set<std::string>;

class FileTest : public testing::Test {
 protected:
  std::filesystem::path Path(const char* name = "file") const { return directory_.path() / name; }

  TemporaryDirectory directory_;
};

TEST_F(FileTest, MapsWholeFilesCopyOnWrite) {
  WriteFileAtomically(Path(), "hello");
  const auto mapped = MappedFile::Open(Path());
  mapped->ReadAhead();
  EXPECT_EQ(mapped->text(), "hello");
  mapped->bytes()[0] = std::byte{'j'};
  EXPECT_EQ(mapped->text(), "jello");
  EXPECT_EQ(ReadFile(Path()), "hello");
  WriteFileAtomically(Path(), "");
  EXPECT_EQ(mapped->text(), "jello");  // the old file lives on in the mapping
  EXPECT_EQ(MappedFile::Open(Path())->text(), "");
}

TEST_F(FileTest, MapsReadOnlyFiles) {
  WriteFileAtomically(Path(), "hello");
  std::filesystem::permissions(Path(), std::filesystem::perms::owner_read);
  EXPECT_EQ(MappedFile::Open(Path())->text(), "hello");
}

TEST_F(FileTest, ErrorsNameThePathAndTheReason) {
  EXPECT_EQ(MessageOf(ErrorCode::kNotFound, [&] { MappedFile::Open(Path("none")); }),
            Path("none").string() + ": cannot open: No such file or directory");
  EXPECT_EQ(MessageOf(ErrorCode::kIo, [&] { MappedFile::Open(directory_.path()); }),
            directory_.path().string() + ": is a directory, expected a file");
  MessageOf(ErrorCode::kNotFound, [&] { ReadFile(Path("none")); });
  EXPECT_THAT(MessageOf(ErrorCode::kIo, [&] { ReadFile(directory_.path()); }),
              HasSubstr("Is a directory"));
  ASSERT_EQ(::mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(MessageOf(ErrorCode::kIo, [&] { MappedFile::Open(Path("pipe")); }),
              HasSubstr("is not a regular file"));
  EXPECT_THAT(
      MessageOf(ErrorCode::kNotFound, [&] { WriteFileAtomically(Path("no") / "file", "x"); }),
      HasSubstr("cannot create: No such file or directory"));
  EXPECT_EQ(MessageOf(ErrorCode::kIo, [&] { CheckWritable(directory_.path()); }),
            directory_.path().string() + ": is a directory, expected a file");
  MessageOf(ErrorCode::kInvalidArgument, [&] { WriteFileAtomically("", "x"); });
  MessageOf(ErrorCode::kInvalidArgument, [&] { WriteFileAtomically(Path("d/"), "x"); });
}

TEST_F(FileTest, ReadsUpToALimit) {
  const std::string content(100000, 'x');
  WriteFileAtomically(Path(), content);
  EXPECT_EQ(ReadFile(Path()), content);
  EXPECT_EQ(ReadFile(Path(), 100000), content);
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidArgument, [&] { ReadFile(Path(), 99999); }),
              HasSubstr("larger than 99999 bytes"));
  // Endless, and of no known size.
  MessageOf(ErrorCode::kInvalidArgument, [&] { ReadFile("/dev/zero", 1000); });
  EXPECT_EQ(ReadFile("/dev/null"), "");
}

TEST_F(FileTest, WritesAppearOnlyWhenCommitted) {
  WriteFileAtomically(Path(), "old");
  {
    AtomicFile file(Path());
    file.Write("half");
    EXPECT_EQ(ReadFile(Path()), "old");
    EXPECT_EQ(NamesIn(directory_.path()).size(), 2u);
  }
  EXPECT_EQ(ReadFile(Path()), "old");
  EXPECT_EQ(NamesIn(directory_.path()), Names{"file"});
  AtomicFile first(Path());
  AtomicFile second(Path());  // two writers do not disturb each other; the last commit stays
  first.Write("first");
  second.Write("second");
  second.Commit();
  EXPECT_EQ(ReadFile(Path()), "second");
  first.Commit();
  EXPECT_EQ(ReadFile(Path()), "first");
  EXPECT_EQ(NamesIn(directory_.path()), Names{"file"});
}

TEST_F(FileTest, LinksAreFollowedAndPermissionsStay) {
  std::filesystem::create_directory(Path("folder"));
  WriteFileAtomically(Path("folder") / "target", "old");
  std::filesystem::permissions(Path("folder") / "target", std::filesystem::perms(0600));
  std::filesystem::create_symlink("folder/target", Path("near"));
  std::filesystem::create_symlink(Path("near"), Path("far"));
  WriteFileAtomically(Path("far"), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(Path("far")));
  EXPECT_TRUE(std::filesystem::is_symlink(Path("near")));
  EXPECT_EQ(ReadFile(Path("folder") / "target"), "new");
  EXPECT_EQ(std::filesystem::status(Path("folder") / "target").permissions(),
            std::filesystem::perms(0600));
  EXPECT_EQ(NamesIn(Path("folder")), Names{"target"});
  // A link to nothing says where the file is to be; a circle says nothing.
  std::filesystem::create_symlink("folder/none", Path("dangling"));
  WriteFileAtomically(Path("dangling"), "made");
  EXPECT_EQ(ReadFile(Path("folder") / "none"), "made");
  std::filesystem::create_symlink("circle", Path("circle"));
  MessageOf(ErrorCode::kIo, [&] { WriteFileAtomically(Path("circle"), "x"); });
}

TEST_F(FileTest, DevicesAndPipesAreWrittenToAndStay) {
  // A device of the test's own where it may make one: a mistake must not replace the system's.
  std::string null = Path("null");
  if (::mknod(null.c_str(), S_IFCHR | 0666, makedev(1, 3)) == 0) {
    struct stat status = {};
    WriteFileAtomically(null, "gone");
    ASSERT_EQ(::stat(null.c_str(), &status), 0);
    EXPECT_TRUE(S_ISCHR(status.st_mode));
  }
  ASSERT_EQ(::mkfifo(Path("pipe").c_str(), 0600), 0);
  // The probe for a place to write to must not be seen by the reader.
  AtomicFile probe(Path("pipe"));
  const int reader = ::open(Path("pipe").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(reader, 0);
  std::filesystem::create_symlink("pipe", Path("link"));
  WriteFileAtomically(Path("link"), "hello");
  char got[16] = {};
  EXPECT_EQ(::read(reader, got, sizeof got), 5);
  EXPECT_STREQ(got, "hello");
  ::close(reader);
  EXPECT_TRUE(std::filesystem::is_fifo(Path("pipe")));
  EXPECT_EQ(std::filesystem::is_symlink(Path("link")), true);
}

TEST_F(FileTest, ADirectoryKilledBetweenItsTwoNamesIsPutBack) {
  const std::string hidden = ".run.4711.0.tmp";
  const auto crashed = [&] {
    std::filesystem::remove_all(Path("run"));
    std::filesystem::create_directories(Path((hidden + ".old").c_str()));
    WriteFileAtomically(Path((hidden + ".old").c_str()) / "a", "old");
    std::filesystem::create_directories(Path(hidden.c_str()));
  };
  crashed();
  CleanUpAfterKilledWriters(directory_.path(), [](std::string_view name) { return name == "run"; });
  EXPECT_EQ(NamesIn(directory_.path()), Names{"run"});
  EXPECT_EQ(ReadFile(Path("run") / "a"), "old");
  // The next write finds it as well, also where it fails itself.
  crashed();
  EXPECT_THROW(
      WriteDirectoryAtomically(
          Path("run"), [](const std::filesystem::path&) { throw std::runtime_error("stop"); }),
      std::runtime_error);
  EXPECT_EQ(ReadFile(Path("run") / "a"), "old");
  // Where the target stands the old one has been replaced.
  std::filesystem::create_directory(Path((hidden + ".old").c_str()));
  CleanUpAfterKilledWriters(directory_.path(), [](std::string_view name) { return name == "run"; });
  EXPECT_EQ(NamesIn(directory_.path()), Names{"run"});
}

TEST_F(FileTest, OnlyTemporariesOfTheNamedTargetsAreRemoved) {
  const Names others = {".run",         ".run.tmp",     ".run.1.tmp",     ".run.1.2.tmpx",
                        ".run.1.x.tmp", ".run..2.tmp",  ".notes.1.2.tmp", "run.1.2.tmp",
                        "..1.2.tmp",    ".1.2.tmp.old", ".vimrc.tmp"};
  for (const std::string& name : others) WriteFileAtomically(directory_.path() / name, "mine");
  WriteFileAtomically(Path(".run.1.2.tmp"), "remains");
  WriteFileAtomically(Path(".run.12.34.tmp"), "remains");
  CleanUpAfterKilledWriters(directory_.path(), [](std::string_view name) { return name == "run"; });
  EXPECT_EQ(NamesIn(directory_.path()), others);
}

TEST_F(FileTest, TakesNamesOfTheGreatestLength) {
  const std::string name(255, 'n');
  WriteFileAtomically(directory_.path() / name, "x");
  EXPECT_EQ(ReadFile(directory_.path() / name), "x");
}

TEST_F(FileTest, RemainsOfADeadProcessDoNoHarm) {
  for (int count = 0; count < 3; ++count) {
    const std::string name =
        ".file." + std::to_string(::getpid()) + "." + std::to_string(count) + ".tmp";
    WriteFileAtomically(directory_.path() / name, "remains");
  }
  WriteFileAtomically(Path(), "new");
  EXPECT_EQ(ReadFile(Path()), "new");
  EXPECT_EQ(NamesIn(directory_.path()).size(), 4u);
}

TEST_F(FileTest, WritesDirectoriesWhole) {
  const auto write = [&](const std::string& content) {
    WriteDirectoryAtomically(Path("run"), [&](const std::filesystem::path& folder) {
      WriteFileAtomically(folder / "a", content);
      std::filesystem::create_directory(folder / "inner");
      WriteFileAtomically(folder / "inner" / "b", content);
    });
  };
  write("1");
  EXPECT_EQ(ReadFile(Path("run") / "inner" / "b"), "1");
  WriteFileAtomically(Path("run") / "only-in-old", "");
  write("2");
  EXPECT_EQ(ReadFile(Path("run") / "a"), "2");
  EXPECT_EQ(NamesIn(Path("run")), (Names{"a", "inner"}));
  EXPECT_EQ(NamesIn(directory_.path()), Names{"run"});
  // A failure inside leaves the old one.
  EXPECT_THROW(WriteDirectoryAtomically(Path("run"),
                                        [](const std::filesystem::path& folder) {
                                          WriteFileAtomically(folder / "a", "3");
                                          throw std::runtime_error("stop");
                                        }),
               std::runtime_error);
  EXPECT_EQ(ReadFile(Path("run") / "a"), "2");
  EXPECT_EQ(NamesIn(directory_.path()), Names{"run"});
  WriteDirectoryAtomically(Path("run/"), [](const std::filesystem::path&) {});
  EXPECT_TRUE(NamesIn(Path("run")).empty());
  // A file is not replaced by a directory, and is found before the work.
  WriteFileAtomically(Path("file"), "x");
  MessageOf(ErrorCode::kIo, [&] {
    WriteDirectoryAtomically(Path("file"), [](const std::filesystem::path&) { FAIL(); });
  });
  EXPECT_EQ(ReadFile(Path("file")), "x");
  EXPECT_EQ(NamesIn(directory_.path()), (Names{"file", "run"}));
  for (const char* name : {"run/.", "run/..", "run/./"}) {
    MessageOf(ErrorCode::kInvalidArgument, [&] {
      WriteDirectoryAtomically(Path(name), [](const std::filesystem::path&) { FAIL(); });
    });
  }
  // A link stays, and what it names is replaced.
  std::filesystem::create_directory_symlink("run", Path("link"));
  WriteDirectoryAtomically(Path("link"), [](const std::filesystem::path& folder) {
    WriteFileAtomically(folder / "c", "4");
  });
  EXPECT_TRUE(std::filesystem::is_symlink(Path("link")));
  EXPECT_EQ(NamesIn(Path("run")), Names{"c"});
  EXPECT_EQ(NamesIn(directory_.path()), (Names{"file", "link", "run"}));
}

// Runs `writer` in a child that is killed at a random moment of its first two writes, many times,
// and calls `check` after each death.
void KillRepeatedly(const std::function<void()>& writer, const std::function<void()>& check) {
  const auto begin = std::chrono::steady_clock::now();
  writer();
  const auto once = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - begin);
  Random random(11);
  for (int round = 0; round < 60 && !testing::Test::HasFailure(); ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        while (true) writer();
      } catch (...) {
      }
      ::_exit(1);
    }
    ::usleep(
        static_cast<useconds_t>(random.NextBelow(2 * static_cast<uint64_t>(once.count()) + 1)));
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer failed by itself";
    check();
  }
}

// A content whose every line says the same, so that a mixture shows.
std::string Uniform(char letter) { return std::string(20000, letter) + "\n"; }

bool IsUniform(const std::string& content) {
  return content.size() == 20001 && content == Uniform(content[0]);
}

TEST_F(FileTest, AKilledWriterLeavesTheOldOrTheNewFile) {
  WriteFileAtomically(Path(), Uniform('a'));
  char letter = 'a';
  KillRepeatedly(
      [&] {
        letter = letter == 'z' ? 'a' : static_cast<char>(letter + 1);
        AtomicFile file(Path());
        const std::string content = Uniform(letter);
        for (size_t i = 0; i < content.size(); i += 1000) {
          file.Write(std::string_view(content).substr(i, 1000));
        }
        file.Commit();
      },
      [&] { EXPECT_TRUE(IsUniform(ReadFile(Path()))); });
  // And the next write goes well beside what the dead left.
  WriteFileAtomically(Path(), Uniform('!'));
  EXPECT_EQ(ReadFile(Path()), Uniform('!'));
}

TEST_F(FileTest, AKilledWriterLeavesTheOldOrTheNewDirectory) {
  char letter = 'a';
  const auto write = [&] {
    letter = letter == 'z' ? 'a' : static_cast<char>(letter + 1);
    WriteDirectoryAtomically(Path("run"), [&](const std::filesystem::path& folder) {
      for (const char* name : {"1", "2", "3"}) {
        WriteFileAtomically(folder / name, Uniform(letter));
      }
    });
  };
  write();
  KillRepeatedly(write, [&] {
    const std::string first = ReadFile(Path("run") / "1");
    EXPECT_TRUE(IsUniform(first));
    EXPECT_EQ(ReadFile(Path("run") / "2"), first);
    EXPECT_EQ(ReadFile(Path("run") / "3"), first);
    EXPECT_EQ(NamesIn(Path("run")), (Names{"1", "2", "3"}));
  });
}

// 0, or a number that says which expectation failed.
int TryFullDisk(const std::filesystem::path& folder) {
  const std::string large(4 << 20, 'x');
  const auto fails = [](const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.code() == ErrorCode::kIo &&
             std::string(error.what()).find("No space left on device") != std::string::npos;
    }
    return false;
  };
  WriteFileAtomically(folder / "file", "old");
  if (!fails([&] { WriteFileAtomically(folder / "file", large); })) return 1;
  if (ReadFile(folder / "file") != "old") return 2;
  if (NamesIn(folder) != Names{"file"}) return 3;
  const auto fill = [&](const std::filesystem::path& inner) {
    WriteFileAtomically(inner / "a", "x");
    WriteFileAtomically(inner / "b", large);
  };
  if (!fails([&] { WriteDirectoryAtomically(folder / "run", fill); })) return 4;
  if (NamesIn(folder) != Names{"file"}) return 5;
  WriteFileAtomically(folder / "file", "new");  // and there is room again
  return ReadFile(folder / "file") == "new" ? 0 : 6;
}

TEST_F(FileTest, AFullDiskLeavesTheOldFile) {
  const int code = test::RunOnOwnFilesystem(directory_.path(), "size=1m", 0,
                                            [&] { return TryFullDisk(directory_.path()); });
  if (code == -1) GTEST_SKIP() << "mounting a small filesystem is not permitted here";
  EXPECT_EQ(code, 0);
}

TEST_F(FileTest, AnUnwritableFolderIsNamed) {
  const auto refused = [&] {
    try {
      WriteFileAtomically(Path(), "x");
    } catch (const Error& error) {
      const bool named =
          std::string(error.what()).starts_with(Path().string() + ": cannot create: ");
      return error.code() == ErrorCode::kIo && named ? 0 : 1;
    }
    return 2;
  };
  // Root may write anywhere but on a read-only filesystem.
  const int code = test::RunOnOwnFilesystem(directory_.path(), "", MS_RDONLY, refused);
  if (code == -1) GTEST_SKIP() << "mounting a read-only filesystem is not permitted here";
  EXPECT_EQ(code, 0);
}

}  // namespace
}  // namespace adder
