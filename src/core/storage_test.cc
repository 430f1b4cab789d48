// Storage: alignment, ownership, and the cache of large blocks.
#include "adder/core/storage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

#if defined(__has_feature)
constexpr bool kAddressSanitizer = __has_feature(address_sanitizer);
constexpr bool kThreadSanitizer = __has_feature(thread_sanitizer);
#else
#ifdef __SANITIZE_ADDRESS__
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif
#ifdef __SANITIZE_THREAD__
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif
#endif

TEST(StorageTest, IsAlignedAndWritableToTheLastByte) {
  for (const int64_t bytes : {0, 1, 63, 64, 65, 4097, 262143, 262144, 262145, 1000003, 9000001}) {
    const auto storage = Storage::Allocate(bytes, {});
    EXPECT_EQ(storage->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(storage->data()) % kStorageAlignment, 0u) << bytes;
    if (bytes > 0) std::memset(storage->data(), 0x5a, static_cast<size_t>(bytes));
  }
}

TEST(StorageTest, BlocksInUseAreDistinct) {
  constexpr int64_t kBytes = 300000;
  std::vector<std::shared_ptr<Storage>> blocks;
  for (int round = 0; round < 3; ++round) {
    blocks.clear();  // to the cache, from where the next round takes them
    for (unsigned char i = 0; i < 8; ++i) {
      blocks.push_back(Storage::Allocate(kBytes, {}));
      std::memset(blocks.back()->data(), i, kBytes);
    }
    for (unsigned char i = 0; i < 8; ++i) {
      EXPECT_EQ(blocks[i]->data()[0], std::byte{i});
      EXPECT_EQ(blocks[i]->data()[kBytes - 1], std::byte{i});
    }
  }
}

TEST(StorageTest, LargeBlocksAreReusedUntilReleased) {
  if (kAddressSanitizer) GTEST_SKIP() << "blocks are not reused under the address sanitizer";
  ReleaseCachedHostMemory();
  const std::byte* first = Storage::Allocate(1 << 20, {})->data();
  // A little smaller, but of the same size class.
  const auto again = Storage::Allocate((1 << 20) - 1000, {});
  EXPECT_EQ(again->data(), first);
  ReleaseCachedHostMemory();  // does not touch what is in use
  std::memset(again->data(), 1, static_cast<size_t>(again->bytes()));
}

// Prompts of every length, one after the other: what is kept of all of them is no more than the
// longest needs.
TEST(StorageTest, VaryingSizesDoNotAccumulate) {
  ReleaseCachedHostMemory();
  ASSERT_EQ(CachedHostBytes(), 0);
  constexpr int64_t kRowBytes = 1 << 16;
  constexpr int64_t kMostRows = 512;
  for (int64_t i = 0; i < 2000; ++i) {
    const int64_t rows = 4 + i * 7919 % (kMostRows - 3);
    // Activations of a layer: two buffers at a time, a third one for a while.
    const auto x = Storage::Allocate(rows * kRowBytes, {});
    const auto y = Storage::Allocate(rows * kRowBytes / 2, {});
    Storage::Allocate(rows * kRowBytes / 4, {});
  }
  // Size classes round up by an eighth at most.
  EXPECT_LE(CachedHostBytes(), kMostRows * kRowBytes * 7 / 4 * 9 / 8);
  ReleaseCachedHostMemory();
  EXPECT_EQ(CachedHostBytes(), 0);
}

// A step that repeats itself finds every block again, whatever the order they were freed in.
TEST(StorageTest, RepeatedWorkNeedsNoFreshMemory) {
  if (kAddressSanitizer) GTEST_SKIP() << "blocks are not reused under the address sanitizer";
  ReleaseCachedHostMemory();
  const auto step = [] {
    std::vector<std::byte*> blocks;
    std::vector<std::shared_ptr<Storage>> held;
    for (int64_t i = 1; i <= 20; ++i) {
      held.push_back(Storage::Allocate(i << 18, {}));
      blocks.push_back(held.back()->data());
    }
    return blocks;
  };
  const std::vector<std::byte*> first = step();
  const int64_t cached = CachedHostBytes();
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(step(), testing::UnorderedElementsAreArray(first));
    EXPECT_EQ(CachedHostBytes(), cached);
  }
}

TEST(StorageTest, TheMostThatWasInUseIsKnownUntilReleased) {
  if (kAddressSanitizer) GTEST_SKIP() << "blocks are not counted under the address sanitizer";
  ReleaseCachedHostMemory();
  const int64_t before = MostHostBytes();
  constexpr int64_t kBytes = 1 << 22;
  {
    const auto a = Storage::Allocate(kBytes, {});
    Storage::Allocate(2 * kBytes, {});
  }
  Storage::Allocate(kBytes, {});
  EXPECT_EQ(MostHostBytes(), before + 3 * kBytes);
  ReleaseCachedHostMemory();
  EXPECT_EQ(MostHostBytes(), before);
}

TEST(StorageTest, WrapsForeignMemoryAndKeepsItsOwner) {
  auto owner = std::make_shared<std::vector<std::byte>>(16);
  std::byte* data = owner->data();
  const std::weak_ptr<std::vector<std::byte>> watch = owner;
  auto storage = Storage::Wrap(data, 16, std::move(owner));
  EXPECT_EQ(storage->data(), data);
  EXPECT_FALSE(watch.expired());
  storage.reset();
  EXPECT_TRUE(watch.expired());
}

TEST(StorageTest, AbsentDevicesAndImpossibleSizesAreErrors) {
  const auto code = [](int64_t bytes, Device device) {
    try {
      Storage::Allocate(bytes, device);
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::kCancelled;
  };
  EXPECT_EQ(code(1, {DeviceType::kCuda, 0}), ErrorCode::kUnsupported);
  EXPECT_EQ(code(INT64_MAX, {}), ErrorCode::kOutOfMemory);
  EXPECT_EQ(code(-1, {}), ErrorCode::kOutOfMemory);
  // Sanitizers end the program for such a request instead of refusing it.
  if (!kAddressSanitizer && !kThreadSanitizer) {
    EXPECT_EQ(code(int64_t{1} << 61, {}), ErrorCode::kOutOfMemory);
  }
}

TEST(StorageTest, ThreadsMayAllocateAtOnce) {
  std::vector<std::thread> threads;
  for (unsigned char t = 1; t <= 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 200; ++i) {
        const auto storage = Storage::Allocate(262144 + 1000 * (i % 3), {});
        std::memset(storage->data(), t, 1000);
        for (int j = 0; j < 1000; ++j) ASSERT_EQ(storage->data()[j], std::byte{t});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace adder
