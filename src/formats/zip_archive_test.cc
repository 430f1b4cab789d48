// Zip directories: what agrees with the archive's bytes is found, what does not is refused.
#include "adder/formats/zip_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adder/core/error.h"
#include "adder/formats/zip_archive_test.h"

namespace adder {
namespace {

using test::ZipOf;
using testing::HasSubstr;

ZipArchive Parse(const std::string& archive) {
  return ZipArchive::Parse(std::as_bytes(std::span(archive)), "m.zip");
}

std::string Refusal(const std::string& archive, ErrorCode code = ErrorCode::kCorrupt) {
  try {
    Parse(archive);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return "";
}

TEST(ZipArchiveTest, FindsEntries) {
  for (const bool zip64 : {false, true}) {
    for (const char* comment : {"", "PK\5\6 a comment that looks like an end"}) {
      const std::string archive = ZipOf({{"a/x", "first"}, {"a/empty", ""}, {"b", "second"}},
                                        {.zip64 = zip64, .comment = comment});
      const ZipArchive zip = Parse(archive);
      ASSERT_EQ(zip.entries().size(), 3u);
      const auto bytes = [&](const char* name) {
        const ZipArchive::Entry entry = zip.entries().at(name);
        return archive.substr(entry.begin, entry.size);
      };
      EXPECT_EQ(bytes("a/x"), "first");
      EXPECT_EQ(bytes("a/empty"), "");
      EXPECT_EQ(bytes("b"), "second");
      EXPECT_EQ(zip.entries().at("b").begin % 64, 0u);
    }
  }
  EXPECT_TRUE(Parse(ZipOf({})).entries().empty());
}

TEST(ZipArchiveTest, RefusesWhatItCannotView) {
  EXPECT_THAT(Refusal(ZipOf({{"a", "x"}}, {.method = 8}), ErrorCode::kUnsupported),
              HasSubstr("m.zip: entry \"a\": is compressed"));
  EXPECT_THAT(Refusal(ZipOf({{"a", "x"}}, {.flags = 1}), ErrorCode::kUnsupported),
              HasSubstr("is encrypted"));
  EXPECT_THAT(Refusal(ZipOf({{"a", "x"}, {"a", "y"}})), HasSubstr("entry \"a\": occurs twice"));
  EXPECT_THAT(Refusal("no archive at all, but long enough to hold one's end"),
              HasSubstr("is no zip archive"));
  EXPECT_THAT(Refusal(""), HasSubstr("is no zip archive"));
}

TEST(ZipArchiveTest, RefusesWhatContradictsItself) {
  const std::string archive = ZipOf({{"name", "0123456789"}});
  const size_t directory = archive.find("PK\1\2");
  const size_t end = archive.find("PK\5\6");
  const auto with = [&](size_t at, uint32_t value) {
    std::string changed = archive;
    std::memcpy(changed.data() + at, &value, sizeof value);
    return changed;
  };
  EXPECT_THAT(Refusal(with(directory + 20, 11)), HasSubstr("is stored in 11 bytes, but has 10"));
  EXPECT_THAT(Refusal(with(directory + 42, 0x7fffffff)), HasSubstr("begins at byte 2147483647"));
  EXPECT_THAT(Refusal(with(directory + 42, 1)), HasSubstr("does not begin where"));
  EXPECT_THAT(Refusal(with(directory + 42, 0xffffffff)), HasSubstr("has no zip64 sizes"));
  EXPECT_THAT(Refusal(with(directory, 0)), HasSubstr("something else where an entry"));
  EXPECT_THAT(Refusal(with(30, 0x41414141)), HasSubstr("another name in its own header"));
  EXPECT_THAT(Refusal(with(end + 16, 0x7fffffff)), HasSubstr("reaches past byte"));
  EXPECT_THAT(Refusal(with(end + 12, 3)), HasSubstr("cannot hold 1 entries"));
  EXPECT_THAT(Refusal(with(end + 16, 0xffffffff)), HasSubstr("has no zip64 end record"));
  std::string longer = archive;
  for (const size_t at : {directory + 20, directory + 24}) {
    std::memcpy(longer.data() + at, "\xff\0\0", 4);
  }
  EXPECT_THAT(Refusal(longer), HasSubstr("reach past the data's end"));
}

TEST(ZipArchiveTest, NoDamageDoesHarm) {
  for (const bool zip64 : {false, true}) {
    const std::string archive = ZipOf({{"a", "0123"}, {"b", "4567"}}, {.zip64 = zip64});
    for (size_t length = 0; length < archive.size(); ++length) Refusal(archive.substr(0, length));
    for (size_t bit = 0; bit < 8 * archive.size(); ++bit) {
      std::string damaged = archive;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
      try {
        const ZipArchive zip = Parse(damaged);
        for (const auto& [name, entry] : zip.entries()) {
          ASSERT_LE(entry.begin, damaged.size());
          ASSERT_LE(entry.size, damaged.size() - entry.begin);
        }
      } catch (const Error&) {
      }
    }
  }
}

}  // namespace
}  // namespace adder
