// Finding files, cutting documents, holding back a tail.
#include "adder/data/byte_corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>

#include "adder/core/error.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ByteCorpusTest : public ::testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_ / "sub"); }

  fs::path Write(const std::string& name, std::string_view content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return folder_ / name;
  }
  std::vector<std::string> Expand(std::vector<std::string> patterns) {
    for (std::string& pattern : patterns) pattern = (folder_ / pattern).string();
    std::vector<std::string> names;
    for (const fs::path& file : ExpandFilePatterns(patterns)) {
      names.push_back(fs::relative(file, folder_).string());
    }
    return names;
  }

  TemporaryDirectory directory_;
  const fs::path folder_ = directory_.path();
};

template <class Call>
std::string MessageOf(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(ByteCorpusTest, ExpandsFilesFoldersAndPatterns) {
  Write("b.txt", "b");
  Write("a.txt", "a");
  Write("c.md", "c");
  Write("sub/d.txt", "d");
  Write(".hidden", "h");
  EXPECT_THAT(Expand({""}), ElementsAre("a.txt", "b.txt", "c.md", "sub/d.txt"));
  EXPECT_THAT(Expand({"*.txt", "c.md", "a.txt"}), ElementsAre("a.txt", "b.txt", "c.md"));
  EXPECT_THAT(Expand({"sub/../c.md"}), ElementsAre("c.md"));
  EXPECT_THAT(MessageOf([&] { Expand({"*.html"}); }), HasSubstr("*.html"));
  EXPECT_THAT(MessageOf([&] { Expand({"missing"}); }), HasSubstr("missing"));
}

TEST_F(ByteCorpusTest, FilesAreDocumentsInOrder) {
  const auto corpus =
      ByteCorpus::Open(std::vector{Write("a", "abc"), Write("b", std::string("\0\xff", 2))});
  EXPECT_EQ(corpus.bytes(), 5);
  ASSERT_EQ(corpus.documents(), 2);
  EXPECT_EQ(corpus.document(0), "abc");
  EXPECT_EQ(corpus.document(1), std::string("\0\xff", 2));
  for (int64_t position = 0; position < 5; ++position) {
    EXPECT_EQ(corpus.Find(position), position < 3 ? 0 : 1);
  }
}

TEST_F(ByteCorpusTest, SeparatorsEndDocuments) {
  const auto corpus =
      ByteCorpus::Open(std::vector{Write("a", "one||two||"), Write("b", "||three|")}, "||");
  ASSERT_EQ(corpus.documents(), 4);
  EXPECT_EQ(corpus.document(0), "one||");
  EXPECT_EQ(corpus.document(1), "two||");
  EXPECT_EQ(corpus.document(2), "||");
  EXPECT_EQ(corpus.document(3), "three|");
}

TEST_F(ByteCorpusTest, SeparatorsAreFoundAcrossTheSearchedStretches) {
  // The search looks at a few megabytes at a time.
  std::string text(9 << 20, 'x');
  for (size_t i = (4 << 20) - 40; i < (4 << 20) + 40; i += 8) text.replace(i, 3, "END");
  text.replace((8 << 20) - 2, 3, "END");
  const auto corpus = ByteCorpus::Open(std::vector{Write("a", text)}, "END");
  ASSERT_EQ(corpus.documents(), 12);
  std::string again;
  for (int64_t i = 0; i < corpus.documents(); ++i) {
    again += corpus.document(i);
    EXPECT_EQ(corpus.document(i).ends_with("END"), i < 11) << i;
  }
  EXPECT_TRUE(again == text);
}

TEST_F(ByteCorpusTest, AnInterruptedSearchStops) {
  const std::atomic<bool> stop = true;
  const auto file = Write("a", "one||two");
  EXPECT_THAT(MessageOf([&] { ByteCorpus::Open(std::vector{file}, "||", &stop); }),
              HasSubstr("interrupted"));
}

TEST_F(ByteCorpusTest, SplitsATailOff) {
  const auto corpus = ByteCorpus::Open(std::vector{Write("a", "0123456"), Write("b", "789")});
  const auto [before, tail] = corpus.SplitTail(0.5);
  ASSERT_EQ(before.documents(), 1);
  EXPECT_EQ(before.document(0), "01234");
  ASSERT_EQ(tail.documents(), 2);
  EXPECT_EQ(tail.document(0), "56");
  EXPECT_EQ(tail.document(1), "789");
  EXPECT_THROW(corpus.SplitTail(0.05), Error);
  EXPECT_THROW(corpus.SplitTail(0.95), Error);
}

TEST_F(ByteCorpusTest, EmptyAndMissingFilesAreNamed) {
  const auto good = Write("good", "text");
  EXPECT_THAT(MessageOf([&] {
                ByteCorpus::Open(std::vector{good, Write("empty", "")});
              }),
              HasSubstr("empty: the file is empty"));
  EXPECT_THAT(MessageOf([&] { ByteCorpus::Open(std::vector{folder_ / "none"}); }),
              HasSubstr("none"));
  EXPECT_THAT(MessageOf([&] { ByteCorpus::Open(std::vector{Write("one", "x")}); }),
              HasSubstr("one: no document has two bytes"));
}

TEST_F(ByteCorpusTest, FingerprintFollowsTheText) {
  const auto open = [&](std::string_view text) {
    return ByteCorpus::Open(std::vector{Write("a", text)}).Fingerprint();
  };
  EXPECT_EQ(open("some text"), open("some text"));
  EXPECT_NE(open("some text"), open("some tex"));
  EXPECT_NE(open("some text"), open("some fext"));
}

}  // namespace
}  // namespace adder
