#include "adder/formats/state_file.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <bit>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "adder/core/error.h"
#include "adder/formats/byte_reader.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"

namespace adder {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is written as memory holds it");

constexpr std::string_view kMagic = "ADDRSTAT";
constexpr uint32_t kVersion = 1;
constexpr size_t kDTypeNameBytes = 4;
constexpr size_t kChecksumBytes = 8;
constexpr size_t kHeaderBytes = 8 + 4 + 4 + 8 + 8 + 8;
constexpr uint32_t kMaxNameBytes = 4096;
// No sequence is longer; more rows can be added to it without overflow.
constexpr int64_t kMostRows = int64_t{1} << 62;

// Counts and hashes what goes to the file.
class ChecksummedWriter {
 public:
  explicit ChecksummedWriter(const std::filesystem::path& path) : file_(path) {
    XXH64_reset(hash_.get(), 0);
  }

  void Write(std::span<const std::byte> bytes) {
    XXH64_update(hash_.get(), bytes.data(), bytes.size());
    written_ += bytes.size();
    file_.Write(bytes);
  }
  template <class T>
  void WriteValue(T value) {
    Write(std::as_bytes(std::span(&value, 1)));
  }
  // Zeros up to a multiple of kStorageAlignment.
  void Align() {
    constexpr std::byte kZeros[kStorageAlignment] = {};
    Write(std::span(kZeros).first((kStorageAlignment - written_ % kStorageAlignment) %
                                  kStorageAlignment));
  }
  void Commit() {
    const uint64_t checksum = XXH64_digest(hash_.get());
    file_.Write(std::as_bytes(std::span(&checksum, 1)));
    file_.Commit();
  }

 private:
  AtomicFile file_;
  std::unique_ptr<XXH64_state_t, decltype(&XXH64_freeState)> hash_{XXH64_createState(),
                                                                   &XXH64_freeState};
  size_t written_ = 0;
};

[[noreturn]] void Fail(const ByteReader& reader, std::string_view problem) {
  reader.Fail(fmt::format("the state file {}", problem));
}

// The zeros up to a multiple of kStorageAlignment.
void SkipPadding(ByteReader& reader) {
  const size_t count =
      (kStorageAlignment - reader.position() % kStorageAlignment) % kStorageAlignment;
  for (const std::byte b : reader.Bytes(count, "the padding of an entry")) {
    if (b != std::byte{0}) Fail(reader, "has padding that is not zero");
  }
}

DType ReadDType(ByteReader& reader) {
  const std::string padded(reader.Text(kDTypeNameBytes, "an entry's dtype"));
  const std::string name = padded.substr(0, padded.find('\0'));
  if (padded.substr(name.size()).find_first_not_of('\0') == std::string::npos) {
    try {
      return ParseDType(name);
    } catch (const Error&) {
    }
  }
  Fail(reader, "has an entry of unknown dtype " + JsonQuote(padded));
}

State::Entry ReadEntry(ByteReader& reader) {
  const auto name_bytes = reader.Value<uint32_t>("an entry's name");
  if (name_bytes > kMaxNameBytes) Fail(reader, "has an entry with too long a name");
  State::Entry entry;
  entry.name = reader.Text(name_bytes, "an entry's name");
  const DType dtype = ReadDType(reader);
  const auto rank = reader.Value<uint32_t>("an entry's shape");
  if (rank > kMaxRank) {
    Fail(reader,
         fmt::format("has an entry with {} dimensions, expected at most {}", rank, kMaxRank));
  }
  std::vector<int64_t> dims;
  for (uint32_t i = 0; i < rank; ++i) dims.push_back(reader.Value<int64_t>("an entry's shape"));
  Shape shape;
  int64_t bytes = 0;
  try {
    shape = Shape(dims);
    bytes = CheckedProduct(shape.elements(), DTypeSize(dtype), "bytes");
  } catch (const Error& error) {
    Fail(reader, "entry " + JsonQuote(entry.name, 80) + ": " + error.what());
  }
  SkipPadding(reader);
  const auto elements = reader.Bytes(static_cast<uint64_t>(bytes), "an entry's elements");
  if (dtype == DType::kBool) {
    for (const std::byte b : elements) {
      if (b > std::byte{1}) Fail(reader, "has a bool that is neither 0 nor 1");
    }
  }
  entry.value = Tensor::Empty(shape, dtype);
  if (!elements.empty()) std::memcpy(entry.value.raw(), elements.data(), elements.size());
  return entry;
}

State ParseBody(ByteReader& reader) {
  // Magic, version and reserved: the caller has checked them.
  reader.Bytes(kMagic.size() + 8, "the header");
  const auto fingerprint = reader.Value<uint64_t>("the header");
  const auto sequences = reader.Value<uint64_t>("the header");
  const auto entry_count = reader.Value<uint64_t>("the header");
  // Before a count is believed, it must fit into what is left.
  if (sequences > reader.remaining() / sizeof(int64_t) || entry_count > reader.remaining() / 8) {
    Fail(reader, "is too short for what it says it holds");
  }
  std::vector<int64_t> positions(static_cast<size_t>(sequences));
  for (int64_t& position : positions) {
    position = reader.Value<int64_t>("the positions");
    if (position < 0 || position > kMostRows) {
      Fail(reader, fmt::format("has position {}, expected 0 to {}", position, kMostRows));
    }
  }
  std::vector<State::Entry> entries;
  std::set<std::string> names;
  for (uint64_t i = 0; i < entry_count; ++i) {
    entries.push_back(ReadEntry(reader));
    if (!names.insert(entries.back().name).second) {
      Fail(reader, "has two entries " + JsonQuote(entries.back().name, 80));
    }
  }
  if (reader.remaining() != 0)
    Fail(reader, fmt::format("has {} bytes too many", reader.remaining()));
  try {
    return State(fingerprint, std::move(positions), std::move(entries));
  } catch (const Error& error) {
    Fail(reader, std::string("is inconsistent: ") + error.what());
  }
}

}  // namespace

void WriteState(const std::filesystem::path& path, const State& given) {
  const bool grows = std::any_of(given.entries().begin(), given.entries().end(),
                                 [](const State::Entry& entry) { return entry.grows; });
  const State compact = grows ? given.Compact() : State();
  const State& state = grows ? compact : given;
  ChecksummedWriter writer(path);
  writer.Write(std::as_bytes(std::span(kMagic)));
  writer.WriteValue(kVersion);
  writer.WriteValue(uint32_t{0});
  writer.WriteValue(state.fingerprint());
  writer.WriteValue(static_cast<uint64_t>(state.sequences()));
  writer.WriteValue(static_cast<uint64_t>(state.entries().size()));
  writer.Write(std::as_bytes(state.positions()));
  for (const State::Entry& entry : state.entries()) {
    if (entry.name.size() > kMaxNameBytes) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: a state entry's name has {} bytes, expected at most {}",
                              path.string(), entry.name.size(), kMaxNameBytes));
    }
    writer.WriteValue(static_cast<uint32_t>(entry.name.size()));
    writer.Write(std::as_bytes(std::span(entry.name)));
    std::string dtype(DTypeName(entry.value.dtype()));
    dtype.resize(kDTypeNameBytes);
    writer.Write(std::as_bytes(std::span(dtype)));
    writer.WriteValue(static_cast<uint32_t>(entry.value.rank()));
    writer.Write(std::as_bytes(entry.value.shape().dims()));
    writer.Align();
    const Tensor host = entry.value.To(Device{});
    const Tensor dense = host.contiguous() ? host : host.Clone();
    writer.Write({static_cast<const std::byte*>(dense.raw()), static_cast<size_t>(dense.bytes())});
  }
  writer.Commit();
}

State ParseState(std::span<const std::byte> file, std::string_view source) {
  const auto fail = [&](const char* problem) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", source, problem));
  };
  if (file.size() < kMagic.size() || std::memcmp(file.data(), kMagic.data(), kMagic.size()) != 0) {
    fail("is not a state file");
  }
  if (file.size() < kHeaderBytes + kChecksumBytes) fail("the state file is cut short");
  const auto body = file.first(file.size() - kChecksumBytes);
  uint64_t checksum = 0;
  std::memcpy(&checksum, file.last(kChecksumBytes).data(), kChecksumBytes);
  // Every version ends with this checksum, so that damage is never taken for a newer version.
  if (checksum != XXH64(body.data(), body.size(), 0)) {
    fail("the state file is damaged: its checksum does not match");
  }
  uint32_t version = 0;
  uint32_t reserved = 0;
  std::memcpy(&version, file.data() + kMagic.size(), sizeof version);
  std::memcpy(&reserved, file.data() + kMagic.size() + sizeof version, sizeof reserved);
  if (version != kVersion) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: the state file has version {}, this program reads version {}",
                            source, version, kVersion));
  }
  if (reserved != 0) fail("the state file has a reserved field that is not zero");
  ByteReader reader(body, source);
  return ParseBody(reader);
}

State ReadState(const std::filesystem::path& path) {
  return ParseState(MappedFile::Open(path)->bytes(), path.string());
}

State ReadStateFor(const std::filesystem::path& path, const State& like) {
  return StateLike(ReadState(path), like, path.string());
}

State StateLike(const State& state, const State& like, std::string_view source) {
  const auto fail = [&](const std::string& problem) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: the state belongs to another model: {}", source, problem));
  };
  if (state.fingerprint() != like.fingerprint()) {
    fail(fmt::format("its fingerprint is {:016x}, the model's {:016x}", state.fingerprint(),
                     like.fingerprint()));
  }
  if (state.entries().size() != like.entries().size()) {
    fail(fmt::format("it has {} entries, the model's states have {}", state.entries().size(),
                     like.entries().size()));
  }
  for (size_t i = 0; i < like.entries().size(); ++i) {
    const State::Entry& got = state.entries()[i];
    const State::Entry& expected = like.entries()[i];
    const auto got_dims = got.value.shape().dims();
    const auto expected_dims = expected.value.shape().dims();
    // All but the first dimension, the number of sequences, and a growing entry's second.
    const int free = expected.grows ? 2 : 1;
    const bool same_shape = got_dims.size() == expected_dims.size() &&
                            std::equal(got_dims.begin() + free, got_dims.end(),
                                       expected_dims.begin() + free, expected_dims.end());
    if (got.name != expected.name || got.value.dtype() != expected.value.dtype() || !same_shape) {
      fail(fmt::format("entry {} is {} {}, expected {} {} (the first dimension is free)", i,
                       JsonQuote(got.name, 80), got.value.ToString(), JsonQuote(expected.name),
                       expected.value.ToString()));
    }
  }
  std::vector<State::Entry> entries(state.entries().begin(), state.entries().end());
  for (size_t i = 0; i < entries.size(); ++i) entries[i].grows = like.entries()[i].grows;
  try {
    return State(state.fingerprint(), {state.positions().begin(), state.positions().end()},
                 std::move(entries));
  } catch (const Error& error) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", source, error.what()));
  }
}

}  // namespace adder
