// Shards and their index: what agrees is opened as one; what does not is refused.
#include "adder/formats/sharded_safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class ShardedSafetensorsTest : public testing::Test {
 protected:
  void WriteShard(const std::string& file, const std::vector<std::string>& names) const {
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (const std::string& name : names) {
      const Tensor tensor = Tensor::Zeros({2}, DType::kF32);
      tensor.data<float>()[0] = static_cast<float>(name.back());
      tensors.emplace_back(name, tensor);
    }
    WriteSafetensors(directory_.path() / file, tensors);
  }
  void WriteIndex(const std::string& weight_map) const {
    WriteFileAtomically(directory_.path() / "model.safetensors.index.json",
                        R"({"metadata": {"total_size": 24}, "weight_map": )" + weight_map + "}");
  }
  ShardedSafetensors Open() const { return ShardedSafetensors::Open(directory_.path()); }
  std::string Refusal(ErrorCode code) const {
    try {
      Open();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "opened";
    return "";
  }

  TemporaryDirectory directory_;
};

TEST_F(ShardedSafetensorsTest, OpensASingleFile) {
  WriteShard("model.safetensors", {"a", "b"});
  const ShardedSafetensors file = Open();
  EXPECT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.Get("b").data<float>()[0], 'b');
  EXPECT_EQ(file.FileOf("b"), directory_.path() / "model.safetensors");
  EXPECT_THROW(file.Get("c"), Error);
  EXPECT_THROW(file.FileOf("c"), Error);
}

TEST_F(ShardedSafetensorsTest, OpensShards) {
  WriteShard("model-00001-of-00002.safetensors", {"a", "b"});
  WriteShard("model-00002-of-00002.safetensors", {"c"});
  WriteIndex(R"({"a": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors",
                 "b": "model-00001-of-00002.safetensors"})");
  const ShardedSafetensors file = Open();
  EXPECT_EQ(file.files().size(), 2u);
  for (const std::string name : {"a", "b", "c"}) {
    EXPECT_EQ(file.Get(name).data<float>()[0], name[0]);
  }
  EXPECT_EQ(file.FileOf("c"), directory_.path() / "model-00002-of-00002.safetensors");
  EXPECT_FALSE(file.Contains("d"));
}

TEST_F(ShardedSafetensorsTest, RefusesWhatDisagrees) {
  EXPECT_THAT(Refusal(ErrorCode::kNotFound), HasSubstr("has neither model.safetensors nor"));
  WriteShard("1.safetensors", {"a", "b"});
  WriteIndex(R"({"a": "1.safetensors"})");
  EXPECT_THAT(Refusal(ErrorCode::kCorrupt),
              HasSubstr("tensor \"b\" is in this shard, but "
                        "model.safetensors.index.json does not list"));
  WriteIndex(R"({"a": "1.safetensors", "b": "1.safetensors", "c": "1.safetensors"})");
  EXPECT_THAT(Refusal(ErrorCode::kCorrupt), HasSubstr("1.safetensors: tensor \"c\" is missing"));
  WriteIndex(R"({"a": "1.safetensors", "b": "2.safetensors"})");
  EXPECT_THAT(Refusal(ErrorCode::kCorrupt), HasSubstr("says it is in \"2.safetensors\""));
  WriteIndex(R"({"a": "1.safetensors", "b": "1.safetensors", "c": "3.safetensors"})");
  EXPECT_THAT(Refusal(ErrorCode::kNotFound),
              HasSubstr("names the shard \"3.safetensors\", which is missing"));
  WriteIndex(R"({"a": "1.safetensors", "a": "1.safetensors", "b": "1.safetensors"})");
  EXPECT_THAT(Refusal(ErrorCode::kCorrupt), HasSubstr("\"a\" occurs twice"));
  WriteIndex("[]");
  Refusal(ErrorCode::kCorrupt);
}

TEST_F(ShardedSafetensorsTest, ShardNamesStayInTheDirectory) {
  for (const char* name :
       {"../1.safetensors", "/etc/1.safetensors", "x/1.safetensors", "..\\\\1.safetensors", "..",
        "", "1.safetensors\\u0000", "model.bin", "x\\u0000/.safetensors"}) {
    WriteIndex(std::string(R"({"a": ")") + name + "\"}");
    EXPECT_THAT(Refusal(ErrorCode::kCorrupt),
                AllOf(HasSubstr("field \"weight_map.a\" is"),
                      HasSubstr("expected the name of a .safetensors file in the same directory")))
        << name;
  }
  WriteIndex(R"({"a": 5})");
  Refusal(ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace adder
