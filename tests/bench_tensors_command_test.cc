// adder bench tensors: another program's results beside ours.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "adder/formats/safetensors.h"
#include "adder/ops/operator_test.h"
#include "adder/ops/rms_norm/rms_norm.h"
#include "adder/ops/selective_scan/selective_scan.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using test::RandomNormal;
using testing::HasSubstr;

using Named = std::vector<std::pair<std::string, Tensor>>;

class BenchTensorsCommandTest : public testing::Test {
 protected:
  test::Finished Run(const Named& tensors, const std::map<std::string, std::string>& metadata,
                     const std::vector<std::string>& options = {}) const {
    WriteSafetensors(directory_.path() / "case.safetensors", tensors, metadata);
    std::vector<std::string> arguments = {"bench", "tensors", "case.safetensors", "--json"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return test::Program(directory_.path(), arguments).Wait();
  }

  TemporaryDirectory directory_;
};

TEST_F(BenchTensorsCommandTest, ComparesAndTimesAScanAndItsBackward) {
  Random random(1);
  const auto tensor = [&](const Shape& shape) {
    return RandomNormal(random, shape).To(DType::kF32);
  };
  SelectiveScanInputs in;
  in.x = tensor({40, 6});
  in.dt = tensor({40, 6});
  in.A = Tensor::Zeros({6, 3}, DType::kF32);
  in.B = tensor({40, 3});
  in.C = tensor({40, 3});
  in.D = tensor({6});
  in.layout = SequenceLayout::Uniform(2, 20);
  const Tensor dy = tensor({40, 6});
  const Tensor y = Tensor::Empty({40, 6}, DType::kF32);
  const Tensor dx = Tensor::Empty({40, 6}, DType::kF32);
  const Tensor chunk_states = Tensor::Empty({ScanChunks(in.layout), 6, 3}, DType::kF32);
  SelectiveScan(in, {.y = y, .hT = {}, .chunk_states = chunk_states});
  SelectiveScanBackward(in, chunk_states, dy, {}, {.dx = dx});
  Named tensors = {{"x", in.x}, {"dt", in.dt}, {"A", in.A},   {"B", in.B},    {"C", in.C},
                   {"D", in.D}, {"dy", dy},    {"peer.y", y}, {"peer.dx", dx}};
  const std::map<std::string, std::string> metadata = {
      {"op", "selective_scan"}, {"title", "a scan"}, {"seconds", "1.5"}, {"sequences", "2"}};
  const test::Finished right = Run(tensors, metadata);
  EXPECT_EQ(right.exit_code, 0) << right.err;
  EXPECT_THAT(right.out, HasSubstr(R"("peer_ms": 1500.0)"));
  EXPECT_THAT(right.out, HasSubstr(R"("work": "a scan")"));
  // One sequence instead of two is another computation.
  std::map<std::string, std::string> wrong = metadata;
  wrong["sequences"] = "1";
  const test::Finished one = Run(tensors, wrong);
  EXPECT_NE(one.exit_code, 0);
  EXPECT_THAT(one.err, HasSubstr("differs from the peer's by"));
  wrong["sequences"] = "3";
  EXPECT_THAT(Run(tensors, wrong).err, HasSubstr("40 rows in 3 sequences of equal length"));
  dx.data<float>()[7] += 100;
  EXPECT_THAT(Run(tensors, metadata).err, HasSubstr("dx differs from the peer's"));
}

TEST_F(BenchTensorsCommandTest, SaysWhatAFileLacks) {
  Random random(2);
  const Tensor x = RandomNormal(random, {3, 8}).To(DType::kF32);
  const Tensor weight = RandomNormal(random, {8}).To(DType::kF32);
  const Tensor y = Tensor::Empty({3, 8}, DType::kF32);
  RmsNorm({.x = x, .residual = {}, .weight = weight}, {.y = y, .residual_out = {}});
  const Named inputs = {{"x", x}, {"weight", weight}};
  Named all = inputs;
  all.emplace_back("peer.y", y);
  const std::map<std::string, std::string> metadata = {
      {"op", "rms_norm"}, {"seconds", "1"}, {"eps", "1e-5"}};
  EXPECT_EQ(Run(all, metadata).exit_code, 0);
  EXPECT_THAT(Run(inputs, metadata).err, HasSubstr("no result of the peer"));
  EXPECT_THAT(Run(all, {{"op", "rms_norm"}, {"seconds", "1"}}).err,
              HasSubstr("metadata \"eps\" is not there or no number"));
  EXPECT_THAT(Run(all, {{"op", "sort"}}).err, HasSubstr("metadata \"op\" is none of"));
  EXPECT_THAT(Run({{"x", x}}, metadata).err, HasSubstr("weight"));
}

}  // namespace
}  // namespace adder
