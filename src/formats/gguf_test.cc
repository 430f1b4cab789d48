// GGUF files: what is written is read back; what the format forbids is refused, naming where.
#include "adder/formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/formats/file.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Type = GgufValue::Type;

template <class T>
std::string Bytes(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string U32(uint32_t value) { return Bytes(value); }
std::string U64(uint64_t value) { return Bytes(value); }
std::string Text(const std::string& text) { return U64(text.size()) + text; }
std::string KeyValue(const std::string& key, Type type, const std::string& value) {
  return Text(key) + U32(static_cast<uint32_t>(type)) + value;
}
std::string Description(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                        uint64_t offset) {
  std::string text = Text(name) + U32(static_cast<uint32_t>(dims.size()));
  for (const uint64_t size : dims) text += U64(size);
  return text + U32(type) + U64(offset);
}

// A file of hand-written metadata and descriptions, and so many bytes of data.
std::string FileOf(const std::vector<std::string>& metadata,
                   const std::vector<std::string>& tensors = {}, size_t data_bytes = 0,
                   uint32_t version = 3, size_t alignment = 32) {
  std::string file =
      std::string("GGUF") + U32(version) + U64(tensors.size()) + U64(metadata.size());
  for (const std::string& value : metadata) file += value;
  for (const std::string& tensor : tensors) file += tensor;
  if (data_bytes > 0) {
    file.resize((file.size() + alignment - 1) / alignment * alignment, '\0');
    for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  }
  return file;
}

GgufHeader Parse(const std::string& file) {
  return GgufHeader::Parse(std::as_bytes(std::span(file)), "m.gguf");
}

std::string Refusal(const std::string& file, ErrorCode code = ErrorCode::kCorrupt) {
  try {
    Parse(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return "";
}

class GgufTest : public testing::Test {
 protected:
  std::filesystem::path Path() const { return directory_.path() / "m.gguf"; }

  TemporaryDirectory directory_;
};

using Metadata = std::vector<std::pair<std::string, GgufValue>>;
using Tensors = std::vector<std::pair<std::string, Tensor>>;

TEST_F(GgufTest, RoundTripsMetadataOfEveryType) {
  const Metadata metadata = {
      {"general.architecture", "mamba"},
      {"text", "é\n\"\0x"},
      {"empty", ""},
      {"yes", true},
      {"u8", GgufValue::Integer(Type::kU8, 255)},
      {"i8", GgufValue::Integer(Type::kI8, -128)},
      {"u16", GgufValue::Integer(Type::kU16, 65535)},
      {"i16", GgufValue::Integer(Type::kI16, -32768)},
      {"u32", uint32_t{4294967295}},
      {"i32", int32_t{-2147483647}},
      {"u64", GgufValue::Integer(Type::kU64, std::numeric_limits<int64_t>::max())},
      {"i64", GgufValue::Integer(Type::kI64, std::numeric_limits<int64_t>::min())},
      {"f32", 1.5f},
      {"f64", GgufValue::Double(Type::kF64, 0.1)},
      {"tokens", GgufValue::Strings{"a", "", "\xe2\x96\x81x"}},
      {"scores", GgufValue::Array(Type::kF32, GgufValue::Doubles{0.5, -1})},
      {"wide", GgufValue::Array(Type::kF64, GgufValue::Doubles{})},
      {"types", GgufValue::Array(Type::kI32, GgufValue::Integers{1, -6})},
      {"flags", GgufValue::Array(Type::kBool, GgufValue::Integers{1, 0, 1})},
  };
  WriteGguf(Path(), metadata, {});
  const GgufFile file = GgufFile::Open(Path());
  EXPECT_EQ(file.metadata().size(), metadata.size());
  for (const auto& [key, value] : metadata) {
    ASSERT_NE(file.Find(key), nullptr) << key;
    EXPECT_EQ(*file.Find(key), value) << key << " " << file.Find(key)->ToString();
  }
  EXPECT_EQ(file.String("general.architecture"), "mamba");
  EXPECT_EQ(file.Int("u16", 0, 1 << 20), 65535);
  EXPECT_EQ(file.Double("f32"), 1.5);
  EXPECT_EQ(file.Double("i8"), -128);
  EXPECT_TRUE(file.Bool("yes"));
  EXPECT_THAT(file.Strings("tokens"), ElementsAre("a", "", "\xe2\x96\x81x"));
  EXPECT_EQ(file.Find("types")->ToString(), "[2 i32]");
  EXPECT_EQ(file.Find("none"), nullptr);
}

TEST_F(GgufTest, RoundTripsTensorsOfEveryDType) {
  Random random(1);
  Tensors tensors;
  for (const DType dtype :
       {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI64, DType::kI32, DType::kI16,
        DType::kI8, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
    for (const Shape& shape : {Shape{256}, Shape{3, 512}, Shape{2, 3, 256}, Shape{0, 256}}) {
      const Tensor tensor = Tensor::Empty(shape, dtype);
      auto* bytes = static_cast<unsigned char*>(tensor.raw());
      for (int64_t i = 0; i < tensor.bytes(); ++i) {
        bytes[i] = static_cast<unsigned char>(random.NextU32());
      }
      tensors.emplace_back(std::string(DTypeName(dtype)) + shape.ToString(), tensor);
    }
  }
  tensors.emplace_back("odd", Tensor::From<float>({3, 1}, std::vector<float>{1, 2, 3}));
  tensors.emplace_back("rows", tensors[5].second.Rows(1, 2));
  tensors.emplace_back("columns", tensors[5].second.Columns(3, 7));
  WriteGguf(Path(), {}, tensors);
  const GgufFile file = GgufFile::Open(Path());
  EXPECT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const Tensor& read = file.Get(name);
    ASSERT_EQ(read.shape(), tensor.shape()) << name;
    ASSERT_EQ(read.dtype(), tensor.dtype()) << name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(read.raw()) % 32, 0u) << name;
    const Tensor dense = tensor.Clone();
    if (dense.bytes() == 0) continue;
    EXPECT_EQ(std::memcmp(read.raw(), dense.raw(), static_cast<size_t>(dense.bytes())), 0) << name;
  }
  EXPECT_THROW(file.Get("none"), Error);
}

TEST_F(GgufTest, TensorsAreMappedAndOutliveTheFile) {
  WriteGguf(Path(), {}, Tensors{{"a", Tensor::Zeros({4}, DType::kF32)}});
  const std::string content = ReadFile(Path());
  const Tensor tensor = GgufFile::Open(Path()).Get("a");
  tensor.data<float>()[3] = 5;
  EXPECT_EQ(ReadFile(Path()), content);
  std::filesystem::remove(Path());
  EXPECT_EQ(tensor.data<float>()[3], 5);
}

// The bytes that ggml's gguf.md describes, written by hand.
TEST(GgufHeaderTest, ReadsTheDocumentedLayout) {
  for (const uint32_t version : {2u, 3u}) {
    const std::string file = FileOf(
        {KeyValue("general.alignment", Type::kU32, U32(64)),
         KeyValue("list", Type::kArray, U32(8) + U64(2) + Text("x") + Text("yz"))},
        {Description("w", {4, 2}, 0, 64), Description("v", {3}, 24, 0)}, 64 + 32, version, 64);
    const GgufHeader header = Parse(file);
    EXPECT_EQ(header.version, version);
    EXPECT_THAT(*header.metadata.at("list").AsStrings(), ElementsAre("x", "yz"));
    ASSERT_EQ(header.tensors.size(), 2u);
    EXPECT_EQ(header.tensors[0].name, "w");
    EXPECT_EQ(header.tensors[0].shape, Shape({2, 4}));  // the first dimension varies fastest
    EXPECT_EQ(header.tensors[0].dtype, DType::kF32);
    EXPECT_EQ(header.tensors[0].begin, file.size() - 32);
    EXPECT_EQ(header.tensors[1].dtype, DType::kI8);
    EXPECT_EQ(header.tensors[1].begin % 64, 0u);
  }
}

// A tensor of nothing lies in the file even where that ends with its header, unaligned.
TEST(GgufHeaderTest, EmptyTensorsNeedNoData) {
  const std::string file = FileOf({}, {Description("empty", {3, 0}, 0, 0)});
  ASSERT_NE(file.size() % 32, 0u);
  const GgufHeader header = Parse(file);
  ASSERT_EQ(header.tensors.size(), 1u);
  EXPECT_LE(header.tensors[0].begin, file.size());
}

TEST(GgufHeaderTest, RefusesAbsurdCounts) {
  const std::string head = std::string("GGUF") + U32(3);
  EXPECT_THAT(
      Refusal(head + U64(UINT64_MAX) + U64(0)),
      HasSubstr("says that it holds 18446744073709551615 tensors and 0 metadata values, but "
                "has 24 bytes"));
  Refusal(head + U64(0) + U64(UINT64_MAX));
  Refusal(head + U64(1) + U64(0));
  Refusal(head + U64(0) + U64(1));
  const auto value = [](Type type, const std::string& bytes) {
    return FileOf({KeyValue("k", type, bytes)});
  };
  EXPECT_THAT(Refusal(value(Type::kString, U64(UINT64_MAX))), HasSubstr("in the middle of a text"));
  EXPECT_THAT(
      Refusal(value(Type::kArray, U32(4) + U64(UINT64_MAX))),
      HasSubstr("metadata \"k\" is an array of 18446744073709551615 u32, but only 0 bytes"));
  Refusal(value(Type::kArray, U32(8) + U64(1) + U32(0)));
  Refusal(value(Type::kArray, U32(6) + U64(2) + U32(0)));
  Refusal(value(Type::kArray, U32(8) + U64(1) + U64(1)));
  EXPECT_THAT(
      Refusal(value(Type::kArray, U32(9) + U64(1) + U32(4) + U64(0)), ErrorCode::kUnsupported),
      HasSubstr("is an array of arrays"));
  EXPECT_THAT(Refusal(value(Type::kArray, U32(13) + U64(0))), HasSubstr("unknown type 13"));
  EXPECT_THAT(Refusal(value(static_cast<Type>(99), U64(0))), HasSubstr("unknown type 99"));
  EXPECT_THAT(Refusal(value(Type::kBool, "\2")), HasSubstr("is a bool of 2"));
  EXPECT_THAT(Refusal(FileOf({U64(70000) + std::string(70000, 'k')})),
              HasSubstr("has a name of 70000 bytes"));
  EXPECT_THAT(Refusal(FileOf({KeyValue("k", Type::kBool, "\1"), KeyValue("k", Type::kBool, "\1")})),
              HasSubstr("metadata \"k\" occurs twice"));
}

TEST(GgufHeaderTest, RefusesWhatIsNoGguf) {
  EXPECT_THAT(Refusal(""), HasSubstr("not a GGUF file?"));
  EXPECT_THAT(Refusal("GGML" + std::string(40, '\0')), HasSubstr("not a GGUF file?"));
  EXPECT_THAT(Refusal(FileOf({}, {}, 0, 1), ErrorCode::kUnsupported),
              HasSubstr("of GGUF version 1"));
  EXPECT_THAT(Refusal(FileOf({}, {}, 0, 4), ErrorCode::kUnsupported), HasSubstr("expected 2 or 3"));
  EXPECT_THAT(Refusal(FileOf({}, {}, 0, 0x03000000), ErrorCode::kUnsupported),
              HasSubstr("big-endian"));
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 21}) {
    EXPECT_THAT(Refusal(FileOf({KeyValue("general.alignment", Type::kU32, U32(alignment))})),
                HasSubstr("expected a power of two"));
  }
  Refusal(FileOf({KeyValue("general.alignment", Type::kString, Text("32"))}));
}

TEST(GgufHeaderTest, RefusesTensorsThatDoNotFit) {
  const auto tensor = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    return FileOf({}, {Description("t", dims, type, offset)}, 64);
  };
  ASSERT_NO_THROW(Parse(tensor({16}, 0, 0)));
  ASSERT_NO_THROW(Parse(tensor({8}, 0, 32)));
  EXPECT_THAT(Refusal(tensor({17}, 0, 0)), HasSubstr("tensor \"t\": has 68 bytes from byte 0 on"));
  EXPECT_THAT(Refusal(tensor({16}, 0, 32)), HasSubstr("cut short"));
  EXPECT_THAT(Refusal(tensor({1}, 0, 8)), HasSubstr("begins at byte 8, expected a multiple of 32"));
  Refusal(tensor({1}, 0, UINT64_MAX - 31));
  Refusal(tensor({1}, 0, uint64_t{1} << 63));
  Refusal(tensor({UINT64_MAX}, 0, 0));
  Refusal(tensor({uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0));
  Refusal(tensor({uint64_t{1} << 61, 2}, 24, 0));
  Refusal(tensor({0, uint64_t{1} << 62, 16}, 0, 0));
  EXPECT_THAT(Refusal(tensor({1, 1, 1, 1, 1, 1, 1}, 0, 0)), HasSubstr("has 7 dimensions"));
  EXPECT_THAT(Refusal(tensor({33}, 8, 0)),
              HasSubstr("is q8_0 [33], whose rows are no multiple of the blocks of 32"));
  EXPECT_THAT(Refusal(tensor({32, 32}, 12, 0)), HasSubstr("no multiple of the blocks of 256"));
  EXPECT_THAT(Refusal(tensor({}, 8, 0)), HasSubstr("no multiple"));
  EXPECT_THAT(Refusal(tensor({256}, 13, 0), ErrorCode::kUnsupported),
              HasSubstr("tensor \"t\": has type Q5_K, expected one of F32, F16, Q4_0, Q8_0, Q4_K, "
                        "Q6_K, I8, I16, I32, I64, F64, BF16"));
  EXPECT_THAT(Refusal(tensor({256}, 4, 0), ErrorCode::kUnsupported), HasSubstr("unknown type 4"));
  EXPECT_THAT(Refusal(tensor({256}, 4000000000, 0), ErrorCode::kUnsupported), HasSubstr("unknown"));
  EXPECT_THAT(Refusal(FileOf({}, {Description("t", {8}, 0, 0), Description("t", {8}, 0, 32)}, 64)),
              HasSubstr("tensor \"t\": occurs twice"));
  EXPECT_THAT(Refusal(FileOf({}, {Description("a", {9}, 0, 0), Description("b", {8}, 0, 32)}, 64)),
              HasSubstr("tensors that overlap"));
}

TEST_F(GgufTest, NoDamageDoesHarm) {
  WriteGguf(
      Path(),
      Metadata{{"a", "text"}, {"b", GgufValue::Array(Type::kI16, GgufValue::Integers{1, 2, 3})}},
      Tensors{{"f", Tensor::Zeros({3, 2}, DType::kF32)},
              {"q", Tensor::Zeros({2, 32}, DType::kQ8_0)}});
  const std::string whole = ReadFile(Path());
  size_t refused = 0;
  for (size_t length = 0; length < whole.size(); ++length) {
    try {
      Parse(whole.substr(0, length));
    } catch (const Error&) {
      ++refused;
    }
  }
  // Only the padding after the last tensor may be missing: of its 68 bytes' 96.
  EXPECT_EQ(refused, whole.size() - 28);
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    try {
      const GgufHeader header = Parse(damaged);
      for (const GgufHeader::Entry& entry : header.tensors) {
        const auto bytes = static_cast<size_t>(DTypeBytes(entry.dtype, entry.shape.elements()));
        ASSERT_LE(entry.begin, damaged.size());
        ASSERT_LE(bytes, damaged.size() - entry.begin);
      }
    } catch (const Error&) {
    }
  }
}

TEST_F(GgufTest, ErrorsNameFileAndKey) {
  const auto message = [](const std::function<void()>& call, ErrorCode code) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    return "nothing was thrown";
  };
  WriteGguf(Path(), Metadata{{"n", uint32_t{5}}, {"s", "text"}}, {});
  const GgufFile file = GgufFile::Open(Path());
  EXPECT_EQ(message([&] { file.Int("none", 0, 9); }, ErrorCode::kNotFound),
            Path().string() + ": has no metadata \"none\", expected an integer from 0 to 9");
  EXPECT_EQ(message([&] { file.Int("n", 0, 4); }, ErrorCode::kCorrupt),
            Path().string() + ": metadata \"n\" is u32 5, expected an integer from 0 to 4");
  EXPECT_THAT(message([&] { file.Int("s", 0, 4); }, ErrorCode::kCorrupt), HasSubstr("is \"text\""));
  message([&] { file.Double("s"); }, ErrorCode::kCorrupt);
  message([&] { file.Bool("n"); }, ErrorCode::kCorrupt);
  message([&] { file.String("n"); }, ErrorCode::kCorrupt);
  message([&] { file.Strings("s"); }, ErrorCode::kCorrupt);
  message([&] { GgufFile::Open(directory_.path() / "none"); }, ErrorCode::kNotFound);

  const auto refuse = [&](const Metadata& metadata, const Tensors& tensors) {
    return message([&] { WriteGguf(Path(), metadata, tensors); }, ErrorCode::kInvalidArgument);
  };
  const Tensor tensor = Tensor::Zeros({2}, DType::kF32);
  EXPECT_THAT(refuse({{"a", true}, {"a", true}}, {}), HasSubstr("\"a\" is empty, too long, given"));
  refuse({{"general.alignment", uint32_t{64}}}, {});
  refuse({{"", true}}, {});
  EXPECT_THAT(refuse({}, {{"a", tensor}, {"a", tensor}}), HasSubstr("\"a\" is given twice"));
  EXPECT_THAT(refuse({}, {{std::string(64, 'n'), tensor}}), HasSubstr("a name of 64 bytes"));
  EXPECT_THAT(refuse({}, {{"a", Tensor()}}), HasSubstr("is undefined"));
  EXPECT_THAT(refuse({}, {{"a", Tensor::Zeros({2}, DType::kU8)}}), HasSubstr("has dtype u8"));
  EXPECT_THAT(refuse({}, {{"a", Tensor::Zeros({}, DType::kF32)}}), HasSubstr("0 dimensions"));
  EXPECT_THAT(refuse({}, {{"a", Tensor::Zeros({1, 1, 1, 1, 1}, DType::kF32)}}),
              HasSubstr("5 dimensions"));
  // A refused write leaves the old file alone.
  EXPECT_EQ(GgufFile::Open(Path()).Int("n", 0, 9), 5);

  message([] { GgufValue::Integer(Type::kU8, 256); }, ErrorCode::kInvalidArgument);
  message([] { GgufValue::Integer(Type::kU32, -1); }, ErrorCode::kInvalidArgument);
  message([] { GgufValue::Integer(Type::kF32, 1); }, ErrorCode::kInvalidArgument);
  message([] { GgufValue::Double(Type::kI32, 1); }, ErrorCode::kInvalidArgument);
  message([] { GgufValue::Array(Type::kBool, GgufValue::Integers{2}); },
          ErrorCode::kInvalidArgument);
  message([] { GgufValue::Array(Type::kString, GgufValue::Integers{}); },
          ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace adder
