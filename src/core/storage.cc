#include "adder/core/storage.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <deque>
#include <map>
#include <mutex>
#include <new>
#include <string>

#include "adder/core/device_memory.h"
#include "adder/core/error.h"

namespace adder {
namespace {

// A freed block of at least this size is cached; smaller ones the system allocator serves well.
constexpr int64_t kCachedBlockMinimum = int64_t{1} << 18;

// A block of at least this size asks for huge pages and is aligned to them: operators walk many
// rows at once, each in a page of its own, and with 4 KiB pages the address translations alone cost
// the scan a tenth of its time once the rows no longer fit the cache.
constexpr int64_t kHugePage = int64_t{1} << 21;
constexpr int64_t kHugePageBlockMinimum = 2 * kHugePage;

std::align_val_t Alignment(int64_t size) {
  return std::align_val_t(size >= kHugePageBlockMinimum ? kHugePage : kStorageAlignment);
}

// Reuse would hide use-after-free from the address sanitizer, which g++ and clang++ announce
// differently.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kCacheBlocks = false;
#elif defined(__has_feature)
constexpr bool kCacheBlocks = !__has_feature(address_sanitizer);
#else
constexpr bool kCacheBlocks = true;
#endif

// Sizes are rounded up to one of eight steps per power of two, so that nearly equal requests (the
// rows of two packed batches) share blocks and at most an eighth is wasted.
int64_t SizeClass(int64_t bytes) {
  if (bytes < kCachedBlockMinimum) return bytes;
  const int64_t step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes))) / 8;
  return (bytes + step - 1) / step * step;
}

std::byte* NewBlock(int64_t size) {
  const auto count = static_cast<size_t>(size);
  void* block = ::operator new(count, Alignment(size), std::nothrow);
  // Advice only: where the system has no huge pages, nothing is lost.
  if (block != nullptr && size >= kHugePageBlockMinimum) {
    ::madvise(block, count / kHugePage * kHugePage, MADV_HUGEPAGE);
  }
  return static_cast<std::byte*>(block);
}

// Freed blocks by size. They never hold more bytes than tensors once held at a time: a job that
// repeats itself finds all its blocks again, while one whose sizes vary (prompts of any length)
// gives those back to the system that it freed longest ago.
class HostBlockCache {
 public:
  std::byte* Take(int64_t size) {
    if (!Caches(size)) {
      std::byte* block = NewBlock(size);
      if (block == nullptr) {
        Release();
        block = NewBlock(size);
      }
      return Checked(block, size);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    std::byte* block = nullptr;
    if (const auto found = free_.find(size); found != free_.end()) {
      block = found->second.back().data;  // the latest, which the processor's cache may still hold
      found->second.pop_back();
      if (found->second.empty()) free_.erase(found);
      cached_ -= size;
    } else {
      block = NewBlock(size);
      if (block == nullptr) {
        EvictDownTo(0);
        block = NewBlock(size);
      }
      Checked(block, size);
    }
    live_ += size;
    most_live_ = std::max(most_live_, live_);
    return block;
  }

  void Give(std::byte* block, int64_t size) {
    if (!Caches(size)) {
      ::operator delete(block, Alignment(size));
      return;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    live_ -= size;
    cached_ += size;
    free_[size].push_back({block, ++freed_});
    EvictDownTo(most_live_);
  }

  // Forgets the peak, too.
  void Release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    EvictDownTo(0);
    most_live_ = live_;
  }

  int64_t most_live() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return most_live_;
  }

  int64_t cached() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return cached_;
  }

 private:
  struct FreeBlock {
    std::byte* data;
    uint64_t freed;  // how many were freed up to this one
  };

  static bool Caches(int64_t size) { return kCacheBlocks && size >= kCachedBlockMinimum; }

  static std::byte* Checked(std::byte* block, int64_t size) {
    if (block == nullptr) {
      throw Error(ErrorCode::kOutOfMemory,
                  "out of memory: " + std::to_string(size) + " bytes were asked for");
    }
    return block;
  }

  // Gives the blocks freed longest ago back to the system until at most `bytes` are cached. There
  // are few sizes, and each one's blocks lie in the order they were freed in.
  void EvictDownTo(int64_t bytes) {
    while (cached_ > bytes) {
      const auto oldest = std::min_element(free_.begin(), free_.end(), [](auto& a, auto& b) {
        return a.second.front().freed < b.second.front().freed;
      });
      const int64_t size = oldest->first;
      ::operator delete(oldest->second.front().data, Alignment(size));
      oldest->second.pop_front();
      if (oldest->second.empty()) free_.erase(oldest);
      cached_ -= size;
    }
  }

  std::mutex mutex_;
  std::map<int64_t, std::deque<FreeBlock>> free_;  // by size; no entry is empty
  int64_t live_ = 0;                               // bytes in use, of sizes that are cached
  int64_t most_live_ = 0;
  int64_t cached_ = 0;
  uint64_t freed_ = 0;
};

// Never destroyed: tensors of static lifetime may give blocks back after main.
HostBlockCache& Cache() {
  static auto* cache = new HostBlockCache;
  return *cache;
}

}  // namespace

std::shared_ptr<Storage> Storage::Allocate(int64_t bytes, Device device) {
  // No machine has more, and size classes need room to round up.
  if (bytes < 0 || bytes > int64_t{1} << 62) {
    throw Error(ErrorCode::kOutOfMemory,
                "out of memory: " + std::to_string(bytes) + " bytes were asked for");
  }
  std::shared_ptr<Storage> storage(new Storage);
  storage->bytes_ = bytes;
  storage->device_ = device;
  if (device.type == DeviceType::kCpu) {
    storage->data_ = Cache().Take(SizeClass(bytes));
  } else {
    storage->memory_ = &DeviceMemoryOf(device);
    storage->data_ = storage->memory_->Allocate(bytes);
  }
  storage->owned_ = true;
  return storage;
}

std::shared_ptr<Storage> Storage::Wrap(void* data, int64_t bytes,
                                       std::shared_ptr<const void> owner) {
  std::shared_ptr<Storage> storage(new Storage);
  storage->bytes_ = bytes;
  storage->data_ = static_cast<std::byte*>(data);
  storage->owner_ = std::move(owner);
  return storage;
}

Storage::~Storage() {
  if (!owned_) return;
  if (memory_ != nullptr) {
    memory_->Free(data_, bytes_);
  } else {
    Cache().Give(data_, SizeClass(bytes_));
  }
}

void ReleaseCachedHostMemory() { Cache().Release(); }

int64_t CachedHostBytes() { return Cache().cached(); }
int64_t MostHostBytes() { return Cache().most_live(); }

}  // namespace adder
