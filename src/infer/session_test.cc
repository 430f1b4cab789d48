// A conversation through a file and back, and files that hold something else.
#include "adder/infer/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <numeric>

#include "adder/core/error.h"
#include "adder/formats/state_file.h"
#include "adder/infer/toy_model_test.h"
#include "adder/ops/sample/sample.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using test::ToyModel;

class SessionTest : public testing::Test {
 protected:
  // The error of reading a file with this state.
  Error ReadError(const State& state) {
    WriteState(path_, state);
    try {
      ReadSession(path_, model_);
    } catch (const Error& error) {
      return error;
    }
    ADD_FAILURE() << "no error was thrown";
    return Error(ErrorCode::kIo, "");
  }

  // The model's state of one sequence and one entry more.
  State With(const std::string& name, const Tensor& value) {
    State state = model_.InitialState(1);
    std::vector<State::Entry> entries(state.entries().begin(), state.entries().end());
    entries.push_back({name, value});
    return State(model_.fingerprint(), {0}, std::move(entries));
  }

  const ToyModel model_{6};
  TemporaryDirectory directory_;
  const std::filesystem::path path_ = directory_.path() / "session";
};

void ExpectEqual(const Session& a, const Session& b) {
  EXPECT_EQ(a.state, b.state);
  EXPECT_EQ(a.pending, b.pending);
  EXPECT_EQ(a.recent, b.recent);
  EXPECT_EQ(a.unshown, b.unshown);
  EXPECT_EQ(a.seed, b.seed);
  EXPECT_EQ(a.stream, b.stream);
  EXPECT_EQ(a.random_offset, b.random_offset);
}

TEST_F(SessionTest, ComesBackFromAFileAsItWas) {
  Session session = Session::Begin(model_, ~uint64_t{0}, uint64_t{1} << 63);
  session.random_offset = (uint64_t{1} << 63) + 5;
  session.Append(std::vector<int32_t>{0, 1, 5, 5});
  session.pending.erase(session.pending.begin(), session.pending.begin() + 3);
  session.unshown = std::string("E\0\xe2\x82", 4);
  session.state.mutable_entries()[0].value.data<float>()[3] = -2.5f;
  session.state.mutable_positions()[0] = 3;
  WriteSession(path_, session);
  ExpectEqual(ReadSession(path_, model_), session);

  const Session empty = Session::Begin(model_, 0);
  WriteSession(path_, empty);
  ExpectEqual(ReadSession(path_, model_), empty);
}

TEST_F(SessionTest, APlainStateIsASessionThatHasSaidNothing) {
  State state = model_.InitialState(1);
  state.mutable_positions()[0] = 77;
  WriteState(path_, state);
  const Session session = ReadSession(path_, model_);
  EXPECT_EQ(session.state, state);
  EXPECT_TRUE(session.pending.empty());
  EXPECT_TRUE(session.recent.empty());
}

TEST_F(SessionTest, RefusesWhatNoSessionHas) {
  EXPECT_EQ(ReadError(ToyModel(7).InitialState(1)).code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(ReadError(model_.InitialState(2)).code(), ErrorCode::kInvalidArgument);
  const auto corrupt = [&](const std::string& name, const Tensor& value) {
    const Error error = ReadError(With(name, value));
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt) << name;
    EXPECT_THAT(error.what(), testing::HasSubstr(path_.string()));
    EXPECT_THAT(error.what(), testing::HasSubstr(name));
  };
  corrupt("session.mood", Tensor::Zeros({1, 1}, DType::kF32));
  corrupt("session.pending", Tensor::Zeros({1, 1}, DType::kI64));
  corrupt("session.pending", Tensor::Zeros({1, 1, 1}, DType::kI32));
  corrupt("session.pending", Tensor::Zeros({1, 0}, DType::kI32));
  corrupt("session.pending", Tensor::From<int32_t>({1, 2}, std::array{0, 6}));
  corrupt("session.pending", Tensor::From<int32_t>({1, 1}, std::array{-1}));
  corrupt("session.recent", Tensor::Zeros({1, kMaxRepetitionWindow + 1}, DType::kI32));
  corrupt("session.unshown", Tensor::Zeros({1, 1 << 20}, DType::kU8));
  corrupt("session.random", Tensor::Zeros({1, 2}, DType::kI64));
}

TEST_F(SessionTest, RemembersTheLastTokensOnly) {
  Session session = Session::Begin(model_, 0);
  std::vector<int32_t> tokens(kMaxRepetitionWindow + 10);
  std::iota(tokens.begin(), tokens.end(), 0);
  session.Append(tokens);
  EXPECT_EQ(session.pending, tokens);
  ASSERT_EQ(session.recent.size(), static_cast<size_t>(kMaxRepetitionWindow));
  EXPECT_EQ(session.recent.front(), 10);
  EXPECT_EQ(session.recent.back(), tokens.back());
}

}  // namespace
}  // namespace adder
