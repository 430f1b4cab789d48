#include "adder/formats/torch_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/formats/pickle.h"
#include "adder/formats/zip_archive.h"

namespace adder {
namespace {

// All that the pickle of a checkpoint may name, sorted.
constexpr std::array<std::string_view, 26> kAllowed = {
    "torch.BFloat16Storage",
    "torch.BoolStorage",
    "torch.ByteStorage",
    "torch.CharStorage",
    "torch.DoubleStorage",
    "torch.FloatStorage",
    "torch.HalfStorage",
    "torch.IntStorage",
    "torch.LongStorage",
    "torch.ShortStorage",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch.bfloat16",
    "torch.bool",
    "torch.device",
    "torch.float16",
    "torch.float32",
    "torch.float64",
    "torch.int16",
    "torch.int32",
    "torch.int64",
    "torch.int8",
    "torch.uint8",
};

struct StorageType {
  std::string_view name;
  DType dtype;
};
constexpr std::array<StorageType, 10> kStorageTypes = {{{"torch.BFloat16Storage", DType::kBF16},
                                                        {"torch.BoolStorage", DType::kBool},
                                                        {"torch.ByteStorage", DType::kU8},
                                                        {"torch.CharStorage", DType::kI8},
                                                        {"torch.DoubleStorage", DType::kF64},
                                                        {"torch.FloatStorage", DType::kF32},
                                                        {"torch.HalfStorage", DType::kF16},
                                                        {"torch.IntStorage", DType::kI32},
                                                        {"torch.LongStorage", DType::kI64},
                                                        {"torch.ShortStorage", DType::kI16}}};

constexpr std::string_view kPickleEntry = "data.pkl";
// How files of PyTorch before 1.6 begin: the pickle of the number 0x1950a86a20f9469cfc6c.
constexpr std::string_view kLegacyMagic = "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
// Nesting and objects that a walk through the pickle visits: shared dicts could make a small file
// an endless one.
constexpr int kMostLevels = 16;
constexpr size_t kMostVisits = size_t{1} << 22;
// And shared keys, names together larger than the memory.
constexpr size_t kMostNameBytes = 1024;

using Kind = PickleValue::Kind;

bool IsCall(const PickleValue& value, std::string_view function) {
  return value.kind == Kind::kCall && value.items[0]->text == function;
}

// A tuple of integers, or a torch.Size of one.
std::optional<std::vector<int64_t>> Integers(const PickleValue& value) {
  const PickleValue* tuple = &value;
  if (IsCall(value, "torch.Size") && value.items[1]->items.size() == 1) {
    tuple = value.items[1]->items[0];
  }
  if (tuple->kind != Kind::kTuple && tuple->kind != Kind::kList) return std::nullopt;
  std::vector<int64_t> integers;
  for (const PickleValue* item : tuple->items) {
    if (item->kind != Kind::kInt) return std::nullopt;
    integers.push_back(item->integer);
  }
  return integers;
}

// A storage's elements in the file.
struct StorageView {
  DType dtype;
  std::byte* data;
  int64_t elements;
};

class CheckpointReader {
 public:
  CheckpointReader(std::span<std::byte> file, std::shared_ptr<const void> owner,
                   const std::string& source)
      : file_(file), owner_(std::move(owner)), source_(source) {
    const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
    if (text.starts_with(kLegacyMagic)) {
      Refuse(
          "is in the format of PyTorch before 1.6, which is not read: load it with a newer "
          "PyTorch and save it again");
    }
    archive_ = ZipArchive::Parse(file, source);
    FindFolder();
    CheckByteOrder();
  }

  std::map<std::string, Tensor> Run() {
    const auto bytes = Entry(kPickleEntry);
    const Pickle pickle = Pickle::Parse(*bytes, kAllowed, source_);
    if (pickle.root().kind != Kind::kDict) Refuse("holds no dict of tensors");
    Walk(pickle.root(), "", 0);
    return std::move(tensors_);
  }

 private:
  [[noreturn]] void Corrupt(std::string_view problem) const {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", source_, problem));
  }
  [[noreturn]] void Refuse(std::string_view problem) const {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: {}", source_, problem));
  }
  [[noreturn]] static void FailTensor(const std::string& source, const std::string& name,
                                      std::string_view problem,
                                      ErrorCode code = ErrorCode::kCorrupt) {
    throw Error(code, fmt::format("{}: tensor {}: {}", source, JsonQuote(name, 200), problem));
  }

  // The archive's entries lie in one folder of any name: FOLDER/data.pkl, FOLDER/data/0, ...
  void FindFolder() {
    int found = 0;
    for (const auto& [name, entry] : archive_.entries()) {
      const size_t slash = name.find('/');
      if (slash == name.npos || name.substr(slash + 1) != kPickleEntry) continue;
      folder_ = std::string(name.substr(0, slash + 1));
      ++found;
    }
    if (found == 0) Corrupt("holds no data.pkl: not a checkpoint of PyTorch?");
    if (found > 1) Corrupt("holds more than one data.pkl");
  }
  void CheckByteOrder() const {
    const auto order = Entry("byteorder");
    if (!order) return;  // files before PyTorch 2.1 are little-endian
    const std::string_view text(reinterpret_cast<const char*>(order->data()), order->size());
    if (text != "little") Refuse("is not little-endian");
  }
  std::optional<std::span<std::byte>> Entry(std::string_view name) const {
    const auto found = archive_.entries().find(folder_ + std::string(name));
    if (found == archive_.entries().end()) return std::nullopt;
    return file_.subspan(found->second.begin, found->second.size);
  }

  void Walk(const PickleValue& value, const std::string& name, int level) {
    if (++visits_ > kMostVisits || level > kMostLevels) {
      Refuse("is nested deeper, or holds more, than a checkpoint has reason to");
    }
    const auto child = [&](std::string_view key) {
      if (name.size() + key.size() > kMostNameBytes) {
        Refuse(fmt::format("has a name of more than {} bytes, {}", kMostNameBytes,
                           JsonQuote(key, 80)));
      }
      return level == 0 ? std::string(key) : name + "." + std::string(key);
    };
    switch (value.kind) {
      case Kind::kDict:
        for (size_t i = 0; i + 1 < value.items.size(); i += 2) {
          const PickleValue& key = *value.items[i];
          if (key.kind != Kind::kText && key.kind != Kind::kInt) {
            Refuse(fmt::format("the dict {} has a key that is neither text nor number",
                               JsonQuote(name, 200)));
          }
          const std::string number = std::to_string(key.integer);
          Walk(*value.items[i + 1], child(key.kind == Kind::kText ? key.text : number), level + 1);
        }
        return;
      case Kind::kList:
      case Kind::kTuple:
        for (size_t i = 0; i < value.items.size(); ++i) {
          Walk(*value.items[i], child(std::to_string(i)), level + 1);
        }
        return;
      case Kind::kCall:
        if (IsCall(value, "torch.Size") || IsCall(value, "torch.device")) return;
        if (!tensors_.emplace(name, ReadTensor(value, name, 0)).second) {
          FailTensor(source_, name, "occurs twice");
        }
        return;
      case Kind::kPersistent:
        FailTensor(source_, name, "is a storage without a tensor", ErrorCode::kUnsupported);
      default:
        return;
    }
  }

  // The call of one of PyTorch's functions that rebuild a tensor.
  Tensor ReadTensor(const PickleValue& call, const std::string& name, int level) {
    const auto fail = [&](std::string_view problem, ErrorCode code = ErrorCode::kCorrupt) {
      FailTensor(source_, name, problem, code);
    };
    const std::vector<const PickleValue*>& arguments = call.items[1]->items;
    if (IsCall(call, "torch._utils._rebuild_parameter") ||
        IsCall(call, "torch._utils._rebuild_parameter_with_state")) {
      if (level > 0 || arguments.empty() || arguments[0]->kind != Kind::kCall) {
        fail("is a parameter without a tensor");
      }
      return ReadTensor(*arguments[0], name, level + 1);
    }
    if (!IsCall(call, "torch._utils._rebuild_tensor_v2") &&
        !IsCall(call, "torch._utils._rebuild_tensor")) {
      fail(fmt::format("is made by {}, which makes no tensors", call.items[0]->text));
    }
    if (arguments.size() < 4 || arguments[1]->kind != Kind::kInt) fail("is not described in full");
    const StorageView storage = ReadStorage(*arguments[0], name);
    const int64_t offset = arguments[1]->integer;
    const auto sizes = Integers(*arguments[2]);
    const auto strides = Integers(*arguments[3]);
    if (!sizes || !strides || sizes->size() != strides->size()) {
      fail("has no valid sizes and strides");
    }
    if (sizes->size() > kMaxRank) {
      fail(fmt::format("has {} dimensions, at most {} are supported", sizes->size(), kMaxRank),
           ErrorCode::kUnsupported);
    }
    Shape shape;
    try {
      shape = Shape(*sizes);
    } catch (const Error& error) {
      fail(error.what());
    }
    CheckElements(shape, *strides, offset, storage, name);
    return View(shape, *strides, storage.dtype, storage.data + offset * DTypeSize(storage.dtype),
                name);
  }

  // A persistent id: ("storage", type, key, device, elements).
  StorageView ReadStorage(const PickleValue& value, const std::string& name) const {
    const auto fail = [&](std::string_view problem) { FailTensor(source_, name, problem); };
    const PickleValue* id = value.kind == Kind::kPersistent ? value.items[0] : nullptr;
    if (id == nullptr || id->kind != Kind::kTuple || id->items.size() < 5 ||
        id->items[0]->kind != Kind::kText || id->items[0]->text != "storage" ||
        id->items[1]->kind != Kind::kGlobal || id->items[2]->kind != Kind::kText ||
        id->items[4]->kind != Kind::kInt) {
      fail("has no valid storage");
    }
    const auto* const type =
        std::find_if(kStorageTypes.begin(), kStorageTypes.end(),
                     [&](const StorageType& entry) { return entry.name == id->items[1]->text; });
    if (type == kStorageTypes.end()) {
      fail(fmt::format("its storage is a {}", id->items[1]->text));
    }
    const std::string_view key = id->items[2]->text;
    const auto bytes = Entry("data/" + std::string(key));
    if (!bytes) fail(fmt::format("its storage {} is not in the file", JsonQuote(key, 80)));
    const int64_t elements = id->items[4]->integer;
    int64_t expected = 0;
    if (elements < 0 || __builtin_mul_overflow(elements, DTypeSize(type->dtype), &expected) ||
        static_cast<uint64_t>(expected) != bytes->size()) {
      fail(fmt::format("its storage {} has {} bytes, which is not the size of {} {}",
                       JsonQuote(key, 80), bytes->size(), elements, DTypeName(type->dtype)));
    }
    return {type->dtype, bytes->data(), elements};
  }

  // Every element lies in the storage, and no more are asked for than it has: a stride of 0 could
  // make a few bytes a tensor of any size.
  void CheckElements(const Shape& shape, const std::vector<int64_t>& strides, int64_t offset,
                     const StorageView& storage, const std::string& name) const {
    int64_t last = offset;
    bool fits = offset >= 0 && offset <= storage.elements;
    for (int i = 0; i < shape.rank(); ++i) {
      const int64_t stride = strides[static_cast<size_t>(i)];
      int64_t reach = 0;
      fits = fits && stride >= 0 &&
             !__builtin_mul_overflow(stride, std::max<int64_t>(0, shape[i] - 1), &reach) &&
             !__builtin_add_overflow(last, reach, &last);
    }
    if (!fits || (shape.elements() > 0 && last >= storage.elements)) {
      FailTensor(source_, name,
                 fmt::format("reaches past its storage of {} elements", storage.elements));
    }
    if (shape.elements() > storage.elements) {
      FailTensor(source_, name,
                 fmt::format("has {} elements in a storage of {}: repeated elements are not read",
                             shape.elements(), storage.elements),
                 ErrorCode::kUnsupported);
    }
  }

  Tensor View(const Shape& shape, const std::vector<int64_t>& strides, DType dtype, std::byte* data,
              const std::string& name) {
    CheckBooleans(shape, strides, dtype, data, name);
    bool dense = true;
    int64_t expected = 1;
    for (int i = shape.rank() - 1; i >= 0; --i) {
      dense = dense && (shape[i] == 1 || strides[static_cast<size_t>(i)] == expected);
      expected *= shape[i];
    }
    const int64_t size = DTypeSize(dtype);
    const bool aligned = reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(size) == 0;
    if ((dense || shape.elements() == 0) && aligned)
      return Tensor::Wrap(data, shape, dtype, owner_);
    // Copies of what many tensors share could fill the memory from a small file.
    copied_ += shape.elements() * size;
    if (copied_ > static_cast<int64_t>(file_.size())) {
      Refuse("its tensors with gaps or in another order are together larger than the file");
    }
    const Tensor copy = Tensor::Empty(shape, dtype);
    auto* to = static_cast<std::byte*>(copy.raw());
    ForEachOffset(shape, strides, [&](int64_t offset) {
      std::memcpy(to, data + offset * size, static_cast<size_t>(size));
      to += size;
    });
    return copy;
  }

  // Any byte but 0 and 1 is no value of a C++ bool.
  void CheckBooleans(const Shape& shape, const std::vector<int64_t>& strides, DType dtype,
                     const std::byte* data, const std::string& name) const {
    if (dtype != DType::kBool) return;
    ForEachOffset(shape, strides, [&](int64_t offset) {
      if (data[offset] > std::byte{1}) {
        FailTensor(
            source_, name,
            fmt::format("holds the byte {}, expected 0 or 1", std::to_integer<int>(data[offset])));
      }
    });
  }

  template <class Visit>
  static void ForEachOffset(const Shape& shape, const std::vector<int64_t>& strides,
                            Visit&& visit) {
    std::array<int64_t, kMaxRank> index = {};
    int64_t offset = 0;
    for (int64_t left = shape.elements(); left > 0; --left) {
      visit(offset);
      for (int axis = shape.rank() - 1; axis >= 0; --axis) {
        const auto i = static_cast<size_t>(axis);
        offset += strides[i];
        if (++index[i] < shape[axis]) break;
        offset -= shape[axis] * strides[i];
        index[i] = 0;
      }
    }
  }

  std::span<std::byte> file_;
  std::shared_ptr<const void> owner_;
  const std::string& source_;
  ZipArchive archive_;
  std::string folder_;
  std::map<std::string, Tensor> tensors_;
  size_t visits_ = 0;
  int64_t copied_ = 0;
};

}  // namespace

TorchCheckpoint TorchCheckpoint::Open(const std::filesystem::path& path) {
  const std::shared_ptr<const MappedFile> mapped = MappedFile::Open(path);
  TorchCheckpoint checkpoint = Parse(mapped->bytes(), mapped, path);
  mapped->ReadAhead();
  return checkpoint;
}

TorchCheckpoint TorchCheckpoint::Parse(std::span<std::byte> file, std::shared_ptr<const void> owner,
                                       const std::filesystem::path& path) {
  TorchCheckpoint checkpoint;
  checkpoint.path_ = path;
  checkpoint.tensors_ = CheckpointReader(file, std::move(owner), path.string()).Run();
  return checkpoint;
}

const Tensor& TorchCheckpoint::Get(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: has no tensor {}", path_.string(), JsonQuote(name, 200)));
  }
  return found->second;
}

}  // namespace adder
