// State files: read back bit for bit; any damage is noticed; another model's state is refused.
#include "adder/formats/state_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#define XXH_INLINE_ALL  // header-only: the test needs no library for it
#include <xxhash.h>

#include <cstring>
#include <functional>
#include <string>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/formats/file.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using testing::HasSubstr;

State SmallState(uint64_t fingerprint = 0x0123456789abcdef, int64_t sequences = 2) {
  Random random(7);
  std::vector<State::Entry> entries;
  for (int layer = 0; layer < 2; ++layer) {
    const Tensor conv = Tensor::Empty({sequences, 3, 5}, DType::kBF16);
    const Tensor ssm = Tensor::Empty({sequences, 5, 2}, DType::kF32);
    FillNormal(conv, random, 0, 1);
    FillNormal(ssm, random, 0, 1);
    entries.push_back({"layers." + std::to_string(layer) + ".conv", conv});
    entries.push_back({"layers." + std::to_string(layer) + ".ssm", ssm});
  }
  std::vector<int64_t> positions;
  for (int64_t s = 0; s < sequences; ++s) positions.push_back(1000 * s + (int64_t{1} << 40));
  return State(fingerprint, positions, std::move(entries));
}

State Parse(const std::string& file) {
  return ParseState(std::as_bytes(std::span(file)), "s.state");
}

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

class StateFileTest : public testing::Test {
 protected:
  std::filesystem::path Path() const { return directory_.path() / "s.state"; }
  std::string Written(const State& state) const {
    WriteState(Path(), state);
    return ReadFile(Path());
  }

  TemporaryDirectory directory_;
};

// Puts the right checksum behind changed bytes: what remains are the checks of the content.
std::string Resealed(std::string file) {
  const uint64_t checksum = XXH64(file.data(), file.size() - 8, 0);
  std::memcpy(file.data() + file.size() - 8, &checksum, 8);
  return file;
}

TEST_F(StateFileTest, RoundTrips) {
  const State state = SmallState();
  Written(state);
  EXPECT_EQ(ReadState(Path()), state);
  EXPECT_EQ(ReadState(Path()).positions()[1], 1000 + (int64_t{1} << 40));
  EXPECT_EQ(ReadState((Written(State()), Path())), State());
  const State empty = SmallState(1, 0);
  EXPECT_EQ(ReadState((Written(empty), Path())), empty);
}

TEST_F(StateFileTest, RoundTripsNaNsAndStridedEntries) {
  const Tensor wide = Tensor::Zeros({2, 6}, DType::kF32);
  auto* bits = static_cast<uint32_t*>(wide.raw());
  for (uint32_t i = 0; i < 12; ++i) bits[i] = 0x7fc00000u + i;  // NaNs with payloads
  const State state(5, {1, 2}, {{"v", wide.Columns(1, 3)}});
  Written(state);
  EXPECT_EQ(ReadState(Path()), state);
}

TEST_F(StateFileTest, TheLayoutIsTheDocumentedOne) {
  const Tensor value = Tensor::From<float>({1, 2}, std::vector<float>{1.0f, -2.0f});
  const std::string file = Written(State(0x1122334455667788, {9}, {{"ab", value}}));
  const std::string header(
      "ADDRSTAT\1\0\0\0\0\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0"
      "\x09\0\0\0\0\0\0\0\2\0\0\0abf32\0\2\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0",
      40 + 8 + 4 + 2 + 4 + 4 + 16);
  ASSERT_EQ(file.size(), 128u + 8 + 8);
  EXPECT_EQ(file.substr(0, header.size()), header);
  EXPECT_EQ(file.substr(header.size(), 128 - header.size()),
            std::string(128 - header.size(), '\0'));
  EXPECT_EQ(std::memcmp(file.data() + 128, value.raw(), 8), 0);
  EXPECT_EQ(Resealed(file), file);
}

TEST_F(StateFileTest, EveryTruncationAndExtensionIsNoticed) {
  const std::string file = Written(SmallState());
  for (size_t length = 0; length < file.size(); ++length) {
    MessageOf(ErrorCode::kCorrupt, [&] { Parse(file.substr(0, length)); });
    // Also by one who knows how to make a checksum.
    if (length >= 48) {
      MessageOf(ErrorCode::kCorrupt, [&] { Parse(Resealed(file.substr(0, length))); });
    }
  }
  MessageOf(ErrorCode::kCorrupt, [&] { Parse(file + '\0'); });
  MessageOf(ErrorCode::kCorrupt, [&] { Parse(Resealed(file + '\0')); });
}

TEST_F(StateFileTest, EveryBitFlipIsNoticed) {
  const std::string file = Written(SmallState());
  for (size_t bit = 0; bit < file.size() * 8; ++bit) {
    std::string damaged = file;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    MessageOf(ErrorCode::kCorrupt, [&] { Parse(damaged); });
  }
}

TEST_F(StateFileTest, HostileContentUnderARightChecksumIsRefused) {
  const std::string file = Written(State(
      1, {9},
      {{"ab", Tensor::Zeros({1, 2}, DType::kF32)}, {"cd", Tensor::Zeros({1, 1}, DType::kBool)}}));
  const auto with = [&](size_t offset, const std::string& bytes) {
    return Resealed(std::string(file).replace(offset, bytes.size(), bytes));
  };
  const std::string huge("\xff\xff\xff\xff\xff\xff\xff\x7f", 8);
  const std::string negative(8, '\xff');
  ASSERT_NO_THROW(Parse(with(0, "A")));
  EXPECT_THAT(MessageOf(ErrorCode::kUnsupported, [&] { Parse(with(8, "\2")); }),
              HasSubstr("has version 2, this program reads version 1"));
  for (const std::string& damaged : {
           with(12, "\1"),  // reserved
           with(24, huge),
           with(24, negative),
           with(24, std::string(8, '\0')),  // sequences
           with(32, huge),
           with(32, negative),
           with(32, std::string("\1\0", 2)),  // entries
           with(40, negative),                // position
           with(48, "\xff\xff\xff\xff"),      // name length
           with(54, "f33"),
           with(54, "f32x"),
           with(54, std::string("\0\0\0\0", 4)),  // dtype
           with(54, "f64"),
           with(54, "f16"),
           with(58, "\7"),
           with(58, "\xff\xff\xff\xff"),
           with(58, std::string(4, '\0')),  // rank
           with(62, huge),
           with(62, negative),
           with(70, huge),
           with(70, negative),  // sizes
           with(70, "\3"),
           with(62, "\2"),
           with(120, "x"),       // padding
           with(136 + 4, "ab"),  // the second entry's name
           with(192, "\2"),      // a bool that is 2
       }) {
    MessageOf(ErrorCode::kCorrupt, [&] { Parse(damaged); });
  }
}

TEST_F(StateFileTest, StatesOfOtherModelsAreRefused) {
  const State state = SmallState();
  Written(state);
  EXPECT_EQ(ReadStateFor(Path(), state), state);
  EXPECT_EQ(ReadStateFor(Path(), SmallState(state.fingerprint(), 1)), state);
  const auto refusal = [&](const State& like) {
    return MessageOf(ErrorCode::kInvalidArgument, [&] { ReadStateFor(Path(), like); });
  };
  EXPECT_THAT(refusal(SmallState(1)), HasSubstr("its fingerprint is 0123456789abcdef"));
  const auto changed = [&](const std::function<void(std::vector<State::Entry>&)>& change) {
    std::vector<State::Entry> entries(state.entries().begin(), state.entries().end());
    change(entries);
    return State(state.fingerprint(), {0, 0}, entries);
  };
  EXPECT_THAT(refusal(changed([](auto& entries) { entries.pop_back(); })), HasSubstr("4 entries"));
  EXPECT_THAT(refusal(changed([](auto& entries) { entries[1].name = "x"; })),
              HasSubstr("entry 1 is \"layers.0.ssm\" f32 [2, 5, 2], expected \"x\""));
  refusal(changed([](auto& entries) { entries[1].value = Tensor::Zeros({2, 5, 3}, DType::kF32); }));
  refusal(changed([](auto& entries) { entries[1].value = Tensor::Zeros({2, 5}, DType::kF32); }));
  refusal(changed([](auto& entries) { entries[1].value = Tensor::Zeros({2, 5, 2}, DType::kF64); }));
  MessageOf(ErrorCode::kNotFound, [&] { ReadState(directory_.path() / "none"); });
}

}  // namespace
}  // namespace adder
