// PyTorch checkpoints made byte by byte and, where PyTorch is at hand, by it: dense tensors come
// out as views, whatever else a pickle asks for is refused by name.
#include "adder/formats/torch_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/sharded_torch_checkpoint.h"
#include "adder/formats/zip_archive_test.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using test::Call;
using test::Dict;
using test::Global;
using test::Int;
using test::Integers;
using test::PickleOf;
using test::StorageId;
using test::TensorCall;
using test::Text;
using test::Tuple;
using test::ZipOf;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kFile = "pytorch_model.bin";

// A file in memory at a multiple of 64 bytes, as a mapping would be.
TorchCheckpoint Parse(const std::string& file) {
  const Tensor memory = Tensor::Empty({static_cast<int64_t>(file.size())}, DType::kU8);
  std::memcpy(memory.raw(), file.data(), file.size());
  const auto owner = std::make_shared<Tensor>(memory);
  return TorchCheckpoint::Parse({static_cast<std::byte*>(memory.raw()), file.size()}, owner, kFile);
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

std::string Floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), 4 * values.size()};
}

// A checkpoint of the pickle and of the storages "0", "1", ...
std::string FileOf(const std::string& opcodes, const std::vector<std::string>& storages = {}) {
  std::vector<std::pair<std::string, std::string>> entries = {
      {"archive/data.pkl", PickleOf(opcodes)}, {"archive/byteorder", "little"}};
  for (size_t i = 0; i < storages.size(); ++i) {
    entries.emplace_back("archive/data/" + std::to_string(i), storages[i]);
  }
  entries.emplace_back("archive/version", "3\n");
  return ZipOf(entries);
}

std::vector<float> Values(const Tensor& tensor) {
  const Tensor dense = tensor.Clone();
  const auto* values = dense.data<float>();
  return {values, values + dense.elements()};
}

const std::string kSix = Floats({0, 1, 2, 3, 4, 5});

std::string OneTensor(const std::string& call) { return FileOf(Dict({{"t", call}}), {kSix}); }
std::string Tensor6(int64_t offset, const std::vector<int64_t>& sizes,
                    const std::vector<int64_t>& strides) {
  return OneTensor(TensorCall(StorageId("FloatStorage", "0", 6), offset, sizes, strides));
}

TEST(TorchCheckpointTest, ReadsDenseTensorsAsViews) {
  const std::string storage = StorageId("FloatStorage", "0", 6);
  const std::string pickle =
      Dict({{"whole", TensorCall(storage, 0, {2, 3}, {3, 1})},
            {"tail", TensorCall(storage, 4, {2}, {1})},
            {"scalar", TensorCall(storage, 5, {}, {})},
            {"empty", TensorCall(storage, 6, {0, 7}, {7, 1})},
            {"parameter", Call(Global("torch._utils", "_rebuild_parameter"),
                               {TensorCall(storage, 2, {1, 2}, {99, 1}), "\x88", "N"})}});
  const TorchCheckpoint file = Parse(FileOf(pickle, {kSix}));
  EXPECT_EQ(file.tensors().size(), 5u);
  EXPECT_EQ(file.Get("whole").shape(), Shape({2, 3}));
  EXPECT_THAT(Values(file.Get("whole")), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(Values(file.Get("tail")), ElementsAre(4, 5));
  EXPECT_THAT(Values(file.Get("scalar")), ElementsAre(5));
  EXPECT_EQ(file.Get("empty").shape(), Shape({0, 7}));
  EXPECT_THAT(Values(file.Get("parameter")), ElementsAre(2, 3));
  // Views of one storage share its memory.
  EXPECT_EQ(file.Get("whole").data<float>() + 4, file.Get("tail").data<float>());
  file.Get("whole").data<float>()[5] = 42;
  EXPECT_THAT(Values(file.Get("scalar")), ElementsAre(42));
  EXPECT_THROW(file.Get("none"), Error);
}

TEST(TorchCheckpointTest, ReadsEveryDType) {
  const std::string bytes("\1\0\1\1\0\0\0\1\1\1\0\1\1\1\0\0", 16);
  for (const auto& [type, dtype] :
       std::vector<std::pair<const char*, DType>>{{"DoubleStorage", DType::kF64},
                                                  {"FloatStorage", DType::kF32},
                                                  {"HalfStorage", DType::kF16},
                                                  {"BFloat16Storage", DType::kBF16},
                                                  {"LongStorage", DType::kI64},
                                                  {"IntStorage", DType::kI32},
                                                  {"ShortStorage", DType::kI16},
                                                  {"CharStorage", DType::kI8},
                                                  {"ByteStorage", DType::kU8},
                                                  {"BoolStorage", DType::kBool}}) {
    const int64_t count = 16 / DTypeSize(dtype);
    const Tensor tensor =
        Parse(FileOf(Dict({{"t", TensorCall(StorageId(type, "0", count), 0, {count}, {1})}}),
                     {bytes}))
            .Get("t");
    EXPECT_EQ(tensor.dtype(), dtype);
    EXPECT_EQ(std::memcmp(tensor.raw(), bytes.data(), 16), 0) << type;
  }
  EXPECT_THAT(
      Refusal(FileOf(Dict({{"t", TensorCall(StorageId("BoolStorage", "0", 2), 0, {2}, {1})}}),
                     {"\1\2"})),
      HasSubstr("tensor \"t\": holds the byte 2, expected 0 or 1"));
}

TEST(TorchCheckpointTest, StridedTensorsAreGathered) {
  EXPECT_THAT(Values(Parse(Tensor6(0, {3, 2}, {1, 3})).Get("t")), ElementsAre(0, 3, 1, 4, 2, 5));
  EXPECT_THAT(Values(Parse(Tensor6(1, {2, 2}, {3, 1})).Get("t")), ElementsAre(1, 2, 4, 5));
  EXPECT_THAT(Values(Parse(Tensor6(1, {3}, {2})).Get("t")), ElementsAre(1, 3, 5));
  EXPECT_THAT(Values(Parse(Tensor6(3, {3}, {0})).Get("t")), ElementsAre(3, 3, 3));
  // Nobody gets more memory than the file has bytes.
  std::vector<std::pair<std::string, std::string>> many;
  for (int i = 0; i < 100; ++i) {
    many.emplace_back(std::to_string(i),
                      TensorCall(StorageId("FloatStorage", "0", 40000), 0, {200, 200}, {1, 200}));
  }
  EXPECT_THAT(Refusal(FileOf(Dict(many), {std::string(160000, '\0')}), ErrorCode::kUnsupported),
              HasSubstr("together larger than the file"));
}

TEST(TorchCheckpointTest, NamesNestedTensors) {
  const std::string t = TensorCall(StorageId("FloatStorage", "0", 6), 0, {1}, {1});
  const TorchCheckpoint file =
      Parse(FileOf(Dict({{"state_dict", Dict({{"a", t}})},
                         {"list", "](" + t + Tuple({"N", t}) + "e"},
                         {"step", Int(5)},
                         {"rate", "G" + std::string(8, '\0')},
                         {"large", "\x8a\x0a" + std::string(10, '\1')},
                         {"note", Text("words")},
                         {"size", Call(Global("torch", "Size"), {Integers({1, 2})})},
                         {"dtype", Global("torch", "bfloat16")}}),
                   {kSix}));
  std::vector<std::string> names;
  for (const auto& [name, tensor] : file.tensors()) names.push_back(name);
  EXPECT_THAT(names, ElementsAre("list.0", "list.1.1", "state_dict.a"));
}

// What torch.save writes of a module's state: an OrderedDict with attributes, memoized.
TEST(TorchCheckpointTest, ReadsAnOrderedDictWithAttributes) {
  const std::string t = TensorCall(StorageId("FloatStorage", "0", 6), 0, {6}, {1});
  std::string pickle = Global("collections", "OrderedDict");
  pickle +=
      std::string("q\0", 2) + ")R" + "q\1" + "(" + Text("w") + "q\2" + t + Text("v") + t + "u";
  pickle += "}" + Text("_metadata") + std::string("h\0", 2) + ")R" + "sb";
  EXPECT_EQ(Parse(FileOf(pickle, {kSix})).tensors().size(), 2u);
}

TEST(TorchCheckpointTest, ReadsLaterProtocols) {
  const auto text = [](const std::string& s) {
    return "\x8c" + std::string(1, static_cast<char>(s.size())) + s + "\x94";
  };
  const auto global = [&](const char* module, const char* name) {
    return text(module) + text(name) + "\x93\x94";
  };
  const std::string pickle =
      "\x80\x04\x95" + test::LittleEndian<uint64_t>(1) + "}\x94" + text("t") +
      global("torch._utils", "_rebuild_tensor_v2") + "((" + text("storage") +
      global("torch", "FloatStorage") + text("0") + text("cpu") + "K\6tQ" + std::string("K\0", 2) +
      "K\2K\3\x86K\3K\1\x86\x89" + global("collections", "OrderedDict") + ")Rt\x94R\x94s.";
  const TorchCheckpoint file = Parse(ZipOf({{"x/data.pkl", pickle}, {"x/data/0", kSix}}));
  EXPECT_EQ(file.Get("t").shape(), Shape({2, 3}));
}

TEST(TorchCheckpointTest, RefusesWhatWouldRunCodeInPython) {
  const auto refused = [](const std::string& opcodes, const std::string& name) {
    EXPECT_THAT(Refusal(FileOf(opcodes), ErrorCode::kUnsupported),
                HasSubstr("pytorch_model.bin: the pickle asks for " + name +
                          ", which a checkpoint doesn't need"));
  };
  refused(Call(Global("os", "system"), {Text("touch /tmp/owned")}), "os.system");
  refused(Call(Global("posix", "system"), {Text("id")}), "posix.system");
  refused(Call(Global("builtins", "eval"), {Text("1")}), "builtins.eval");
  refused(Call(Global("__builtin__", "exec"), {Text("1")}), "__builtin__.exec");
  refused(Dict({{"t", Call(Global("subprocess", "Popen"), {Text("id")})}}), "subprocess.Popen");
  refused(Global("torch", "load") + Tuple({Text("x")}) + "R", "torch.load");
  refused(Text("os") + Text("system") + "\x93", "os.system");
  // Names with dots reach attributes in protocol 4.
  refused(Text("torch") + Text("_utils.os.system") + "\x93", "torch._utils.os.system");
  refused(Global("torch.nn.modules.linear", "Linear") + ")\x81", "torch.nn.modules.linear.Linear");
  refused(Global("os\x1b[2J", "system"), "\"os\\u001b[2J.system\"");
  // A function that is allowed, but makes no tensor, where one should stand.
  EXPECT_THAT(Refusal(OneTensor(Call(Global("torch", "FloatStorage"), {Int(1)}))),
              HasSubstr("is made by torch.FloatStorage, which makes no tensors"));
  // What it makes is never called again, nor given attributes.
  EXPECT_THAT(Refusal(FileOf(Call(Call(Global("torch", "Size"), {}), {}))),
              HasSubstr("calls what is no function"));
  EXPECT_THAT(Refusal(FileOf(Call(Global("torch", "Size"), {}) + "}b")),
              HasSubstr("gives attributes to what is no dict"));
  // Opcodes that make objects, import or look up extensions.
  for (const char opcode : {'i', 'o', '\x81', '\x92', '\x82', '\x83', '\x84', 'P', 'I', 'S', 'V',
                            'F', 'g', 'p', '\x96', '\x97', '\x98', '\xff'}) {
    EXPECT_THAT(Refusal(FileOf(std::string(1, opcode) + "os\nsystem\n"), ErrorCode::kUnsupported),
                HasSubstr("which a checkpoint doesn't need"));
  }
}

TEST(TorchCheckpointTest, RefusesTensorsThatDoNotFitTheirStorage) {
  ASSERT_NO_THROW(Parse(Tensor6(0, {6}, {1})));
  for (const std::string& file :
       {Tensor6(0, {7}, {1}), Tensor6(1, {6}, {1}), Tensor6(-1, {1}, {1}), Tensor6(7, {0}, {1}),
        Tensor6(0, {2}, {6}), Tensor6(5, {2}, {-1}), Tensor6(0, {2, 2}, {5, 1}),
        Tensor6(0, {2}, {INT64_MAX}), Tensor6(0, {3}, {INT64_MAX / 2 + 1}),
        Tensor6(INT64_MAX, {1}, {1}), Tensor6(INT64_MAX, {2}, {1})}) {
    EXPECT_THAT(Refusal(file), HasSubstr("reaches past its storage of 6 elements"));
  }
  EXPECT_THAT(Refusal(Tensor6(0, {1 << 20, 1 << 20}, {0, 0}), ErrorCode::kUnsupported),
              HasSubstr("repeated elements are not read"));
  EXPECT_THAT(
      Refusal(Tensor6(0, {1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1}), ErrorCode::kUnsupported),
      HasSubstr("has 7 dimensions"));
  EXPECT_THAT(Refusal(Tensor6(0, {-1}, {1})), HasSubstr("tensor \"t\""));
  EXPECT_THAT(Refusal(Tensor6(0, {INT64_MAX, 4}, {0, 0})), HasSubstr("tensor \"t\""));
  EXPECT_THAT(Refusal(Tensor6(0, {2, 3}, {1})), HasSubstr("no valid sizes and strides"));
  const auto storage = [](const std::string& id) { return OneTensor(TensorCall(id, 0, {1}, {1})); };
  EXPECT_THAT(Refusal(storage(StorageId("FloatStorage", "0", 7))),
              HasSubstr("its storage \"0\" has 24 bytes, which is not the size of 7 f32"));
  EXPECT_THAT(Refusal(storage(StorageId("FloatStorage", "0", INT64_MAX))), HasSubstr("24 bytes"));
  EXPECT_THAT(Refusal(storage(StorageId("FloatStorage", "0", -1))), HasSubstr("24 bytes"));
  EXPECT_THAT(Refusal(storage(StorageId("FloatStorage", "1", 6))),
              HasSubstr("its storage \"1\" is not in the file"));
  EXPECT_THAT(Refusal(storage(StorageId("FloatStorage", "../data.pkl", 6))),
              HasSubstr("is not in the file"));
  EXPECT_THAT(Refusal(storage(Int(1))), HasSubstr("has no valid storage"));
  EXPECT_THAT(Refusal(storage(Int(1) + "Q")), HasSubstr("has no valid storage"));
  EXPECT_THAT(Refusal(storage(Tuple({Text("module"), Int(1), Int(1), Int(1), Int(1)}) + "Q")),
              HasSubstr("has no valid storage"));
  EXPECT_THAT(Refusal(storage(StorageId("Size", "0", 6))),
              HasSubstr("its storage is a torch.Size"));
  EXPECT_THAT(Refusal(storage(StorageId("ComplexFloatStorage", "0", 3)), ErrorCode::kUnsupported),
              HasSubstr("torch.ComplexFloatStorage"));
}

TEST(TorchCheckpointTest, RefusesWhatIsNoCheckpoint) {
  EXPECT_THAT(Refusal(FileOf("]"), ErrorCode::kUnsupported), HasSubstr("holds no dict"));
  EXPECT_THAT(Refusal(ZipOf({{"a/b", ""}})), HasSubstr("holds no data.pkl"));
  EXPECT_THAT(Refusal(ZipOf({{"a/data.pkl", "x"}, {"b/data.pkl", "x"}})), HasSubstr("more than"));
  EXPECT_THAT(Refusal(ZipOf({{"a/data.pkl", PickleOf("}")}, {"a/byteorder", "big"}}),
                      ErrorCode::kUnsupported),
              HasSubstr("is not little-endian"));
  EXPECT_THAT(Refusal("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.and so on",
                      ErrorCode::kUnsupported),
              HasSubstr("the format of PyTorch before 1.6"));
  EXPECT_THAT(Refusal(FileOf("}N" + Text("x") + "s"), ErrorCode::kUnsupported),
              HasSubstr("neither text nor number"));
  EXPECT_THAT(Refusal(FileOf(Dict({{"s", StorageId("FloatStorage", "0", 6)}}), {kSix}),
                      ErrorCode::kUnsupported),
              HasSubstr("tensor \"s\": is a storage without a tensor"));
  const std::string t = TensorCall(StorageId("FloatStorage", "0", 6), 0, {1}, {1});
  EXPECT_THAT(Refusal(FileOf(Dict({{"a", t}, {"a", t}}), {kSix})), HasSubstr("occurs twice"));
}

TEST(TorchCheckpointTest, RefusesPicklesThatAreNone) {
  const auto pickle = [](const std::string& bytes) { return ZipOf({{"a/data.pkl", bytes}}); };
  EXPECT_THAT(Refusal(pickle(""), ErrorCode::kUnsupported), HasSubstr("protocol 0 or 1"));
  EXPECT_THAT(Refusal(pickle("(dp0\n."), ErrorCode::kUnsupported), HasSubstr("protocol 0 or 1"));
  EXPECT_THAT(Refusal(pickle("\x80\x06}."), ErrorCode::kUnsupported), HasSubstr("protocol 6"));
  for (const char* opcodes : {".",
                              "}}.",
                              "(.",
                              "(}.",
                              "0.",
                              "R.",
                              "e.",
                              "u.",
                              "s.",
                              "b.",
                              "t.",
                              "1.",
                              "\x85.",
                              "h\1.",
                              "}s.",
                              "](NNu.",
                              "}(Nu.",
                              "}(NNe.",
                              "N(e.",
                              "q\1.",
                              "\x94.",
                              "Q.",
                              "NNR.",
                              "NN\x93.",
                              "2.",
                              "}",
                              "X\xff\xff\xff\xffx.",
                              "\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.",
                              "cno newline",
                              "\x95\xff\xff\xff\xff\xff\xff\xff\xff}.",
                              "\x8b\xff\xff\xff\xff.",
                              "J\1.",
                              "G\1.",
                              "ccollections\nOrderedDict\nN\x85R.",
                              "ccollections\nOrderedDict\n]Na\x85R."}) {
    Refusal(pickle("\x80\x02" + std::string(opcodes)));
  }
  // Marks hide what is below them.
  Refusal(pickle("\x80\x02}(s."));
  EXPECT_NO_THROW(Parse(pickle("\x80\x02}(0.")));
  EXPECT_NO_THROW(Parse(pickle("\x80\x02}(NN1.")));
  EXPECT_NO_THROW(
      Parse(pickle("\x80\x02}2"
                   "0.")));
}

// Dicts that contain themselves, or each other again and again.
TEST(TorchCheckpointTest, RefusesEndlessPickles) {
  EXPECT_THAT(Refusal(FileOf("}q\1" + Text("x") + "h\1s"), ErrorCode::kUnsupported),
              HasSubstr("nested deeper"));
  std::string doubling =
      "]q\1"
      "0";
  for (char level = 2; level < 14; ++level) {
    doubling += "](";
    for (int i = 0; i < 40; ++i) doubling += std::string("h") + static_cast<char>(level - 1);
    doubling += std::string("eq") + level + "0";
  }
  EXPECT_THAT(Refusal(FileOf("}" + Text("x") + doubling + "h\x0ds"), ErrorCode::kUnsupported),
              HasSubstr("or holds more, than"));
  std::string many = "](";
  many.append((size_t{1} << 22) + 1, 'N');
  EXPECT_THAT(Refusal(FileOf(many + "e"), ErrorCode::kUnsupported),
              HasSubstr("has more than 4194304 objects"));
  // A list that becomes one dict after the other, and a key that is in every name.
  const std::string ordered =
      Global("collections", "OrderedDict") + "q\1" + "0" + "K\1K\1\x86q\2" + "0";
  std::string pairs = ordered + "]q\3(";
  for (int i = 0; i < 50000; ++i) pairs += "h\2";
  pairs += "e0](";
  for (int i = 0; i < 100; ++i) pairs += "h\1h\3\x85R";
  EXPECT_THAT(Refusal(FileOf(pairs + "e"), ErrorCode::kUnsupported),
              HasSubstr("OrderedDicts of more than 4194304 pairs"));
  EXPECT_THAT(Refusal(FileOf(Dict({{std::string(600, 'k'), Dict({{std::string(600, 'k'), "N"}})}})),
                      ErrorCode::kUnsupported),
              HasSubstr("a name of more than 1024 bytes"));
}

TEST(TorchCheckpointTest, NoDamageDoesHarm) {
  const std::string whole =
      FileOf(Dict({{"a", TensorCall(StorageId("FloatStorage", "0", 6), 0, {3, 2}, {2, 1})},
                   {"b", TensorCall(StorageId("FloatStorage", "0", 6), 1, {2, 2}, {1, 3})}}),
             {kSix});
  for (size_t length = 0; length < whole.size(); ++length) Refusal(whole.substr(0, length));
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    try {
      const TorchCheckpoint file = Parse(damaged);
      for (const auto& [name, tensor] : file.tensors()) {
        ASSERT_LE(tensor.bytes(), 64);
        tensor.Clone();  // the address sanitizer sees what lies outside
      }
    } catch (const Error&) {
    }
  }
}

class TorchCheckpointFileTest : public testing::Test {
 protected:
  void Write(const std::string& name, const std::vector<std::string>& tensors) const {
    std::vector<std::pair<std::string, std::string>> items;
    for (const std::string& tensor : tensors) {
      items.emplace_back(tensor, TensorCall(StorageId("FloatStorage", "0", 6), 0, {6}, {1}));
    }
    WriteFileAtomically(directory_.path() / name, FileOf(Dict(items), {kSix}));
  }

  TemporaryDirectory directory_;
};

TEST_F(TorchCheckpointFileTest, TensorsAreMappedAndOutliveTheFile) {
  Write(kFile, {"a"});
  const std::filesystem::path path = directory_.path() / kFile;
  const std::string content = ReadFile(path);
  const Tensor tensor = TorchCheckpoint::Open(path).Get("a");
  tensor.data<float>()[0] = 9;
  EXPECT_EQ(ReadFile(path), content);
  std::filesystem::remove(path);
  EXPECT_THAT(Values(tensor), ElementsAre(9, 1, 2, 3, 4, 5));
  EXPECT_THROW(TorchCheckpoint::Open(path), Error);
}

TEST_F(TorchCheckpointFileTest, OpensShards) {
  EXPECT_THROW(ShardedTorchCheckpoint::Open(directory_.path()), Error);
  Write("pytorch_model-00001-of-00002.bin", {"a", "b"});
  Write("pytorch_model-00002-of-00002.bin", {"c"});
  WriteFileAtomically(directory_.path() / "pytorch_model.bin.index.json",
                      R"({"weight_map": {"a": "pytorch_model-00001-of-00002.bin",
                                         "b": "pytorch_model-00001-of-00002.bin",
                                         "c": "pytorch_model-00002-of-00002.bin"}})");
  const ShardedTorchCheckpoint sharded = ShardedTorchCheckpoint::Open(directory_.path());
  EXPECT_EQ(sharded.files().size(), 2u);
  EXPECT_EQ(sharded.tensors().size(), 3u);
  EXPECT_EQ(sharded.FileOf("c"), directory_.path() / "pytorch_model-00002-of-00002.bin");
  EXPECT_THROW(sharded.Get("d"), Error);
  Write(kFile, {"z"});
  EXPECT_TRUE(ShardedTorchCheckpoint::Open(directory_.path()).Contains("z"));
}

// What PyTorch itself writes, if the benchmarks' environment with PyTorch has been set up.
TEST_F(TorchCheckpointFileTest, ReadsWhatPyTorchWrites) {
  const std::string python = ADDER_SOURCE_DIR "/benchmarks/peers/.venv/bin/python";
  if (!std::filesystem::exists(python)) GTEST_SKIP() << "no PyTorch at hand";
  const std::filesystem::path script = directory_.path() / "write.py";
  WriteFileAtomically(script, R"(
import sys, torch
w = torch.arange(12, dtype=torch.float32).reshape(3, 4)
module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
state = module.state_dict()
state["tied"] = w
state["view"] = w[1:, 2:]
state["transposed"] = w.t()
state["bf16"] = w.bfloat16()
state["f16"] = w.half()
state["f64"] = w.double()
state["i64"] = w.long()
state["bool"] = w > 5
state["parameter"] = torch.nn.Parameter(w)
state["scalar"] = torch.tensor(7.5)
state["empty"] = torch.empty(0, 3)
for protocol in (2, 4, 5):
    torch.save(state, f"{sys.argv[1]}/p{protocol}.pt", pickle_protocol=protocol)
torch.save({"model": state, "step": 3, "lr": 0.5, "dtype": torch.bfloat16,
            "size": w.size(), "device": torch.device("cpu")}, sys.argv[1] + "/nested.pt")
torch.save(state, sys.argv[1] + "/legacy.pt", _use_new_zipfile_serialization=False)
torch.save(module, sys.argv[1] + "/module.pt")
)");
  const std::string command = "'" + python + "' '" + script.string() + "' '" +
                              directory_.path().string() + "' > /dev/null 2>&1";
  if (std::system(command.c_str()) != 0) GTEST_SKIP() << "no working PyTorch at hand";
  for (const char* name : {"p2.pt", "p4.pt", "p5.pt"}) {
    const TorchCheckpoint file = TorchCheckpoint::Open(directory_.path() / name);
    EXPECT_EQ(file.tensors().size(), 15u) << name;
    EXPECT_EQ(file.Get("0.weight").shape(), Shape({2, 3}));
    EXPECT_EQ(Values(file.Get("tied")).back(), 11);
    EXPECT_THAT(Values(file.Get("view")), ElementsAre(6, 7, 10, 11));
    EXPECT_THAT(Values(file.Get("transposed")), ElementsAre(0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11));
    EXPECT_EQ(file.Get("tied").raw(), file.Get("parameter").raw());
    for (const char* floating : {"bf16", "f16", "f64"}) {
      EXPECT_EQ(Values(file.Get(floating).To(DType::kF32)), Values(file.Get("tied"))) << floating;
    }
    EXPECT_EQ(file.Get("i64").data<int64_t>()[11], 11);
    EXPECT_TRUE(file.Get("bool").data<bool>()[6]);
    EXPECT_FALSE(file.Get("bool").data<bool>()[5]);
    EXPECT_THAT(Values(file.Get("scalar")), ElementsAre(7.5));
    EXPECT_EQ(file.Get("empty").shape(), Shape({0, 3}));
  }
  const TorchCheckpoint nested = TorchCheckpoint::Open(directory_.path() / "nested.pt");
  EXPECT_TRUE(nested.Contains("model.0.weight"));
  EXPECT_EQ(nested.tensors().size(), 15u);
  const auto message = [&](const char* name) -> std::string {
    try {
      TorchCheckpoint::Open(directory_.path() / name);
    } catch (const Error& error) {
      return error.what();
    }
    return "opened";
  };
  EXPECT_THAT(message("legacy.pt"), HasSubstr("the format of PyTorch before 1.6"));
  EXPECT_THAT(message("module.pt"),
              AllOf(HasSubstr("the pickle asks for torch.nn.modules"), HasSubstr("doesn't need")));
}

TEST(WriteTorchCheckpointTest, IsReadBackToTheBit) {
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory.path() / "pytorch_model.bin";
  std::vector<float> values(24);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.25f * static_cast<float>(i) - 1;
  const Tensor f32 = Tensor::From<float>({2, 3, 4}, values);
  const std::vector<std::pair<std::string, Tensor>> tensors = {
      {"a.weight", f32},
      {"b", f32.To(DType::kBF16)},
      {"columns", f32.Columns(1, 2)},
      {"empty", Tensor::Zeros({0, 5}, DType::kF16)},
      {"scalar", Tensor::Zeros(Shape(std::vector<int64_t>{}), DType::kI64)}};
  WriteTorchCheckpoint(path, tensors);
  const TorchCheckpoint read = TorchCheckpoint::Open(path);
  ASSERT_EQ(read.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const Tensor& again = read.Get(name);
    ASSERT_EQ(again.ToString(), tensor.ToString()) << name;
    const Tensor dense = tensor.Clone();
    EXPECT_EQ(std::memcmp(again.raw(), dense.raw(), static_cast<size_t>(dense.bytes())), 0) << name;
  }
  const Tensor quantized = Tensor::Zeros({1, 32}, DType::kQ8_0);
  const std::pair<std::string, Tensor> refused[] = {{"q", quantized}};
  EXPECT_THROW(WriteTorchCheckpoint(path, refused), Error);
  EXPECT_EQ(TorchCheckpoint::Open(path).tensors().size(), tensors.size());
}

}  // namespace
}  // namespace adder
