// safetensors files: what is written is read back; what the format forbids is refused, naming
// where.
#include "adder/formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/formats/file.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using testing::HasSubstr;

// A file of a header text and data.
std::string FileOf(const std::string& header, const std::string& data = "") {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

SafetensorsHeader Parse(const std::string& file) {
  return SafetensorsHeader::Parse(std::as_bytes(std::span(file)), "m.safetensors");
}

// The message with which a file is refused.
std::string Refusal(const std::string& file, ErrorCode code = ErrorCode::kCorrupt) {
  try {
    Parse(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << file.substr(8);
  return "";
}

std::string Bytes(const Tensor& tensor) {
  const Tensor dense = tensor.Clone();
  return {static_cast<const char*>(dense.raw()), static_cast<size_t>(dense.bytes())};
}

class SafetensorsTest : public testing::Test {
 protected:
  std::filesystem::path Path() const { return directory_.path() / "m.safetensors"; }

  TemporaryDirectory directory_;
};

TEST_F(SafetensorsTest, RoundTripsEveryDTypeAndShape) {
  Random random(1);
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const DType dtype : {DType::kBool, DType::kU8, DType::kI8, DType::kI16, DType::kBF16,
                            DType::kF16, DType::kI32, DType::kF32, DType::kI64, DType::kF64}) {
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{3}, Shape{7, 5}, Shape{2, 0, 3},
                               Shape{64, 2}, Shape{1, 2, 1, 3, 1, 2}}) {
      const Tensor tensor = Tensor::Empty(shape, dtype);
      auto* bytes = static_cast<unsigned char*>(tensor.raw());
      for (int64_t i = 0; i < tensor.bytes(); ++i) {
        bytes[i] = static_cast<unsigned char>(random.NextBelow(dtype == DType::kBool ? 2 : 256));
      }
      tensors.emplace_back("t." + std::string(DTypeName(dtype)) + shape.ToString(), tensor);
    }
  }
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"é\n\"", "\\\t"}};
  WriteSafetensors(Path(), tensors, metadata);

  const SafetensorsFile file = SafetensorsFile::Open(Path());
  EXPECT_EQ(file.metadata(), metadata);
  EXPECT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    ASSERT_TRUE(file.Contains(name));
    const Tensor& read = file.Get(name);
    EXPECT_EQ(read.shape(), tensor.shape()) << name;
    EXPECT_EQ(read.dtype(), tensor.dtype()) << name;
    EXPECT_EQ(Bytes(read), Bytes(tensor)) << name;
  }
}

TEST_F(SafetensorsTest, WrittenTensorsAreAlignedAndMapped) {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const int64_t count : {3, 16, 5, 32, 8, 1}) {
    tensors.emplace_back("u" + std::to_string(count), Tensor::Zeros({count}, DType::kU8));
    tensors.emplace_back("f" + std::to_string(count), Tensor::Zeros({count}, DType::kF32));
    tensors.emplace_back("d" + std::to_string(count), Tensor::Zeros({count}, DType::kF64));
  }
  WriteSafetensors(Path(), tensors);
  const std::string content = ReadFile(Path());
  for (const SafetensorsHeader::Entry& entry : Parse(content).tensors) {
    const int64_t bytes = entry.shape.elements() * DTypeSize(entry.dtype);
    EXPECT_EQ(entry.begin % static_cast<size_t>(DTypeSize(entry.dtype)), 0u) << entry.name;
    if (bytes % 64 == 0) {
      EXPECT_EQ(entry.begin % 64, 0u) << entry.name;
    }
  }
  // Writing to a view reaches neither the file nor another opening of it.
  const SafetensorsFile file = SafetensorsFile::Open(Path());
  file.Get("f5").data<float>()[0] = 42;
  EXPECT_EQ(SafetensorsFile::Open(Path()).Get("f5").data<float>()[0], 0);
  EXPECT_EQ(ReadFile(Path()), content);
}

TEST_F(SafetensorsTest, WritesStridedTensors) {
  Random random(2);
  const Tensor wide = Tensor::Empty({1000, 700}, DType::kF32);
  FillNormal(wide, random, 0, 1);
  const Tensor view = wide.Columns(100, 401).Rows(3, 990);
  WriteSafetensors(Path(), std::vector<std::pair<std::string, Tensor>>{{"v", view}});
  EXPECT_EQ(Bytes(SafetensorsFile::Open(Path()).Get("v")), Bytes(view));
}

TEST_F(SafetensorsTest, TensorsOutliveTheFileObject) {
  WriteSafetensors(Path(), std::vector<std::pair<std::string, Tensor>>{
                               {"a", Tensor::From<int32_t>({2}, std::vector<int32_t>{7, 8})}});
  const Tensor tensor = SafetensorsFile::Open(Path()).Get("a");
  std::filesystem::remove(Path());
  EXPECT_EQ(tensor.data<int32_t>()[1], 8);
}

TEST_F(SafetensorsTest, UnalignedTensorsAreCopied) {
  const float value = 1.5f;
  for (size_t padding = 0; padding < 4; ++padding) {
    WriteFileAtomically(Path(), FileOf(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})" +
                                           std::string(padding, ' '),
                                       std::string(reinterpret_cast<const char*>(&value), 4)));
    const Tensor tensor = SafetensorsFile::Open(Path()).Get("a");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.raw()) % 4, 0u);
    EXPECT_EQ(*tensor.data<float>(), 1.5f);
  }
}

TEST_F(SafetensorsTest, ErrorsNameFileAndTensor) {
  WriteSafetensors(
      Path(), std::vector<std::pair<std::string, Tensor>>{{"a", Tensor::Zeros({2}, DType::kF32)}});
  const auto message = [](const std::function<void()>& call, ErrorCode code) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      return error.what();
    }
    return "nothing was thrown";
  };
  const SafetensorsFile file = SafetensorsFile::Open(Path());
  EXPECT_EQ(message([&] { file.Get("b\x1b"); }, ErrorCode::kNotFound),
            Path().string() + ": has no tensor \"b\\u001b\"");
  message([&] { SafetensorsFile::Open(directory_.path() / "no"); }, ErrorCode::kNotFound);
  EXPECT_THAT(message([&] { SafetensorsFile::Open(directory_.path()); }, ErrorCode::kIo),
              HasSubstr("is a directory"));
  const auto write = [&](std::vector<std::pair<std::string, Tensor>> tensors) {
    return message([&] { WriteSafetensors(Path(), tensors); }, ErrorCode::kInvalidArgument);
  };
  const Tensor tensor = Tensor::Zeros({2}, DType::kF32);
  EXPECT_THAT(write({{"a", tensor}, {"a", tensor}}), HasSubstr("\"a\" occurs twice"));
  EXPECT_THAT(write({{"\xff", tensor}}), HasSubstr("no valid header"));
  EXPECT_THAT(write({{"__metadata__", tensor}}), HasSubstr("name of the metadata"));
  EXPECT_THAT(write({{"a", Tensor()}}), HasSubstr("undefined"));
  EXPECT_THAT(write({{"a", Tensor::Zeros({32}, DType::kQ8_0)}}),
              HasSubstr("tensor a is quantized"));
  // A refused write leaves the old file alone.
  EXPECT_TRUE(SafetensorsFile::Open(Path()).Contains("a"));
  WriteFileAtomically(Path(), FileOf(R"({"m":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})",
                                     std::string("\1\2")));
  EXPECT_THAT(message([&] { SafetensorsFile::Open(Path()); }, ErrorCode::kCorrupt),
              HasSubstr("tensor m: element 1 is 2, expected 0 or 1"));
}

TEST(SafetensorsHeaderTest, AcceptsWhatTheFormatAllows) {
  EXPECT_TRUE(Parse(FileOf("{}")).tensors.empty());
  EXPECT_TRUE(Parse(FileOf("{}   ")).tensors.empty());
  EXPECT_EQ(Parse(FileOf(R"({"__metadata__":{"a":"b"}})")).metadata.at("a"), "b");
  const SafetensorsHeader header =
      Parse(FileOf(R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},)"
                   R"("e":{"dtype":"F64","shape":[0,5],"data_offsets":[1,1]},)"
                   R"("a":{"dtype":"U8","shape":[],"data_offsets":[0,1],"extra":null}})",
                   "abc"));
  ASSERT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[1].name, "e");
  EXPECT_EQ(header.tensors[2].name, "b");
}

TEST(SafetensorsHeaderTest, RefusesHostileHeaders) {
  const auto tensor = [](const std::string& fields, const std::string& data = std::string(8, 'x')) {
    return FileOf("{\"t\":" + fields + "}", data);
  };
  const auto described = [&](const std::string& dtype, const std::string& shape,
                             const std::string& offsets) {
    return tensor("{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
                  ",\"data_offsets\":" + offsets + "}");
  };
  ASSERT_NO_THROW(Parse(described("F32", "[2]", "[0,8]")));

  // Offsets and sizes.
  EXPECT_THAT(Refusal(described("F32", "[2]", "[0,9]")),
              HasSubstr("tensor t: ends at byte 9 of 8"));
  EXPECT_THAT(Refusal(described("F32", "[3]", "[0,8]")), HasSubstr("not the size of f32 [3]"));
  EXPECT_THAT(Refusal(described("F32", "[1]", "[0,4]")), HasSubstr("4 bytes after the header"));
  EXPECT_THAT(Refusal(described("F32", "[1]", "[4,8]")), HasSubstr("begins at byte 4, expected 0"));
  for (const char* offsets :
       {"[8,0]", "[-8,0]", "[0]", "[0,8,8]", "[0,8.0]", "[0,\"8\"]", "{}", "null", "8",
        "[0,18446744073709551616]", "[0,1e3]", "[9223372036854775807,9223372036854775807]"}) {
    Refusal(described("F32", "[2]", offsets));
  }
  // Shapes: negative, fractional, overflowing (also where another size is 0).
  for (const char* shape :
       {"[-2]", "[2.0]", "[\"2\"]", "2", "null", "{}", "[null]", "[9223372036854775807]",
        "[4611686018427387904,4]", "[4294967296,4294967296]", "[9223372036854775808]",
        "[2305843009213693952,8,2]", "[1e999]"}) {
    Refusal(described("F32", shape, "[0,8]"));
  }
  Refusal(FileOf(R"({"t":{"dtype":"F64","shape":[0,4611686018427387904,4611686018427387904],)"
                 R"("data_offsets":[0,0]}})"));
  EXPECT_THAT(Refusal(described("F32", "[1,1,1,1,1,1,2]", "[0,8]"), ErrorCode::kUnsupported),
              HasSubstr("has 7 dimensions, at most 6"));
  // Dtypes.
  EXPECT_THAT(Refusal(described("F8_E4M3", "[8]", "[0,8]"), ErrorCode::kUnsupported),
              HasSubstr("tensor t: has dtype \"F8_E4M3\""));
  Refusal(described("f32", "[2]", "[0,8]"), ErrorCode::kUnsupported);
  Refusal(tensor(R"({"dtype":5,"shape":[2],"data_offsets":[0,8]})"));
  // Descriptions.
  for (const char* fields :
       {"null", "[]", "{}", "7", R"({"dtype":"F32","shape":[2]})",
        R"({"dtype":"F32","data_offsets":[0,8]})", R"({"shape":[2],"data_offsets":[0,8]})",
        R"({"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})"}) {
    Refusal(tensor(fields));
  }
  // Overlaps and duplicates.
  const std::string a = R"("a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]})";
  const std::string b = R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]})";
  EXPECT_THAT(Refusal(FileOf("{" + a + "," + b + "}", "12345678")),
              HasSubstr("tensor b: begins at byte 4, expected 5"));
  EXPECT_THAT(Refusal(FileOf("{" + a + "," + a + "}", "12345")),
              HasSubstr("the key \"a\" occurs twice"));
  // Metadata.
  Refusal(FileOf(R"({"__metadata__":[]})"));
  Refusal(FileOf(R"({"__metadata__":{"a":1}})"));
  // The header itself.
  for (const char* header :
       {"", "[]", "null", " {}", "{", "{}{}", "{\"\xff\":{}}", "\xef\xbb\xbf{}"}) {
    Refusal(FileOf(header));
  }
  Refusal(FileOf("{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}"));
  Refusal("");
  Refusal("1234567");
  const auto with_length = [](uint64_t length) {
    return std::string(reinterpret_cast<const char*>(&length), 8) + "{}";
  };
  EXPECT_THAT(Refusal(with_length(3)), HasSubstr("cut short"));
  EXPECT_THAT(Refusal(with_length(UINT64_MAX)), HasSubstr("not a safetensors file?"));
  EXPECT_THAT(Refusal(with_length(1)), HasSubstr("not valid JSON"));
  // A name that could play tricks on a terminal is printed in quotes.
  EXPECT_THAT(Refusal(FileOf("{\"\\u001b[2J\":{}}")), HasSubstr("tensor \"\\u001b[2J\": has no"));
}

class DamagedSafetensorsTest : public SafetensorsTest {
 protected:
  DamagedSafetensorsTest() {
    WriteSafetensors(Path(),
                     std::vector<std::pair<std::string, Tensor>>{
                         {"backbone.A_log", Tensor::Zeros({3, 2}, DType::kF32)},
                         {"mask", Tensor::Zeros({3}, DType::kBool)},
                         {"empty", Tensor::Zeros({0}, DType::kBF16)}},
                     {{"format", "pt"}});
    whole_ = ReadFile(Path());
  }

  std::string whole_;
};

TEST_F(DamagedSafetensorsTest, EveryTruncationAndExtensionIsRefused) {
  for (size_t length = 0; length < whole_.size(); ++length) Refusal(whole_.substr(0, length));
  Refusal(whole_ + '\0');
}

TEST_F(DamagedSafetensorsTest, NoBitFlipDoesHarm) {
  // The format has no checksum: a flip in a name or in data is another valid file. What is accepted
  // must lie in the file.
  int accepted = 0;
  for (size_t bit = 0; bit < whole_.size() * 8; ++bit) {
    std::string damaged = whole_;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    try {
      for (const SafetensorsHeader::Entry& entry : Parse(damaged).tensors) {
        const int64_t bytes = entry.shape.elements() * DTypeSize(entry.dtype);
        ASSERT_LE(entry.begin + static_cast<size_t>(bytes), damaged.size());
      }
      ++accepted;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(accepted, 0);
}

TEST(SafetensorsGoldenTest, ReadsAFileOfTheReferenceImplementation) {
  const std::filesystem::path path = ADDER_SOURCE_DIR "/tests/goldens/mamba-tied/model.safetensors";
  const SafetensorsFile file = SafetensorsFile::Open(path);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.Get("backbone.embeddings.weight").shape(), Shape({97, 64}));
  EXPECT_EQ(file.Get("backbone.layers.0.mixer.A_log").dtype(), DType::kF32);
  // Written again, it has the same tensors.
  const TemporaryDirectory directory;
  const std::vector<std::pair<std::string, Tensor>> tensors(file.tensors().begin(),
                                                            file.tensors().end());
  WriteSafetensors(directory.path() / "m.safetensors", tensors, file.metadata());
  const SafetensorsFile again = SafetensorsFile::Open(directory.path() / "m.safetensors");
  ASSERT_EQ(again.tensors().size(), file.tensors().size());
  for (const auto& [name, tensor] : tensors) EXPECT_EQ(Bytes(again.Get(name)), Bytes(tensor));
}

}  // namespace
}  // namespace adder
