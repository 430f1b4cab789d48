#include "adder/core/storage.h"

#include <sys/mman.h>

#include <bit>
#include <map>
#include <mutex>
#include <new>
#include <string>

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

class HostBlockCache {
 public:
  ~HostBlockCache() { Release(); }

  std::byte* Take(int64_t size) {
    if (kCacheBlocks && size >= kCachedBlockMinimum) {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = free_.find(size);
      if (found != free_.end()) {
        std::byte* block = found->second;
        free_.erase(found);
        return block;
      }
    }
    const auto count = static_cast<size_t>(size);
    void* block = ::operator new(count, Alignment(size), std::nothrow);
    if (block == nullptr) {
      Release();
      block = ::operator new(count, Alignment(size), std::nothrow);
    }
    if (block == nullptr) {
      throw Error(ErrorCode::kOutOfMemory,
                  "out of memory: " + std::to_string(size) + " bytes were asked for");
    }
    // Advice only: where the system has no huge pages, nothing is lost.
    if (size >= kHugePageBlockMinimum)
      ::madvise(block, count / kHugePage * kHugePage, MADV_HUGEPAGE);
    return static_cast<std::byte*>(block);
  }

  void Give(std::byte* block, int64_t size) {
    if (kCacheBlocks && size >= kCachedBlockMinimum) {
      const std::lock_guard<std::mutex> lock(mutex_);
      free_.emplace(size, block);
      return;
    }
    ::operator delete(block, Alignment(size));
  }

  void Release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [size, block] : free_) {
      ::operator delete(block, Alignment(size));
    }
    free_.clear();
  }

 private:
  std::mutex mutex_;
  std::multimap<int64_t, std::byte*> free_;
};

// Never destroyed: tensors of static lifetime may give blocks back after main.
HostBlockCache& Cache() {
  static auto* cache = new HostBlockCache;
  return *cache;
}

}  // namespace

std::shared_ptr<Storage> Storage::Allocate(int64_t bytes, Device device) {
  if (device.type != DeviceType::kCpu) {
    throw Error(ErrorCode::kUnsupported,
                "this build has no backend for device " + ToString(device));
  }
  // No machine has more, and size classes need room to round up.
  if (bytes < 0 || bytes > int64_t{1} << 62) {
    throw Error(ErrorCode::kOutOfMemory,
                "out of memory: " + std::to_string(bytes) + " bytes were asked for");
  }
  std::shared_ptr<Storage> storage(new Storage);
  storage->bytes_ = bytes;
  storage->device_ = device;
  storage->data_ = Cache().Take(SizeClass(bytes));
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
  if (owned_) Cache().Give(data_, SizeClass(bytes_));
}

void ReleaseCachedHostMemory() { Cache().Release(); }

}  // namespace adder
