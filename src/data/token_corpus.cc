#include "adder/data/token_corpus.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <bit>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is written as memory holds it");

constexpr size_t kPartBytes = size_t{1} << 20;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t token_bytes;
  uint64_t key;
  uint64_t vocab_size;
};
static_assert(sizeof(Header) == 32);
constexpr std::string_view kMagic = "ADDRTOKS";
constexpr uint32_t kVersion = 1;

// Behind the tokens, zeros up to a multiple of 8 bytes, and where the documents begin.
struct Footer {
  uint64_t documents;
  uint64_t tokens;
  uint64_t text_bytes;
  uint64_t checksum;  // of header, beginnings and what stands above
};
static_assert(sizeof(Footer) == 32);

uint64_t ChecksumOf(const Header& header, std::span<const int64_t> begins, const Footer& footer) {
  uint64_t hash = XXH64(&header, sizeof(header), 0);
  hash = XXH64(begins.data(), begins.size_bytes(), hash);
  return XXH64(&footer, offsetof(Footer, checksum), hash);
}

size_t Padding(size_t bytes) { return (8 - bytes % 8) % 8; }

template <class T>
void Append(std::span<const int32_t> tokens, std::vector<std::byte>* out) {
  const size_t size = out->size();
  out->resize(size + tokens.size() * sizeof(T));
  std::byte* to = out->data() + size;
  for (const int32_t token : tokens) {
    const T narrow = static_cast<T>(token);
    std::memcpy(to, &narrow, sizeof(T));
    to += sizeof(T);
  }
}

}  // namespace

void TokenCorpus::Build(const std::filesystem::path& path, uint64_t key, const ByteCorpus& text,
                        const Tokenizer& tokenizer, const BuildOptions& options) {
  Header header = {};
  std::memcpy(header.magic, kMagic.data(), kMagic.size());
  header.version = kVersion;
  header.vocab_size = static_cast<uint64_t>(tokenizer.vocab_size());
  header.token_bytes = header.vocab_size <= 65536 ? 2 : 4;
  header.key = key;
  AtomicFile file(path);
  file.Write(std::as_bytes(std::span(&header, 1)));

  std::vector<int64_t> begins = {0};
  std::vector<std::byte> buffer;
  int64_t tokens = 0;
  int64_t bytes = 0;
  bool has_target = false;
  for (int64_t i = 0; i < text.documents(); ++i) {
    tokenizer.EncodeParts(
        text.document(i), kPartBytes, [&](std::span<const int32_t> part, size_t part_bytes) {
          if (options.cancel != nullptr && options.cancel->load()) {
            throw Error(
                ErrorCode::kCancelled,
                fmt::format("stopped after tokenizing {} of {} bytes", bytes, text.bytes()));
          }
          header.token_bytes == 2 ? Append<uint16_t>(part, &buffer)
                                  : Append<uint32_t>(part, &buffer);
          tokens += static_cast<int64_t>(part.size());
          bytes += static_cast<int64_t>(part_bytes);
          if (buffer.size() < kPartBytes) return;
          file.Write(buffer);
          buffer.clear();
          if (options.progress) options.progress(bytes, text.bytes());
        });
    if (tokens > begins.back()) begins.push_back(tokens);
    has_target = has_target || tokens >= *(begins.end() - 2) + 2;
  }
  if (!has_target) {
    throw Error(ErrorCode::kInvalidArgument,
                "no document has two tokens, the least that can be learned from");
  }
  buffer.resize(buffer.size() + Padding(static_cast<size_t>(tokens) * header.token_bytes));
  file.Write(buffer);
  file.Write(std::as_bytes(std::span(begins)));
  Footer footer = {};
  footer.documents = begins.size() - 1;
  footer.tokens = static_cast<uint64_t>(tokens);
  footer.text_bytes = static_cast<uint64_t>(text.bytes());
  footer.checksum = ChecksumOf(header, begins, footer);
  file.Write(std::as_bytes(std::span(&footer, 1)));
  file.Commit();
}

TokenCorpus TokenCorpus::Open(const std::filesystem::path& path) {
  std::shared_ptr<const MappedFile> file = MappedFile::Open(path);
  TokenCorpus corpus = Parse(file->bytes(), path.string());
  corpus.file_ = std::move(file);
  return corpus;
}

TokenCorpus TokenCorpus::Parse(std::span<const std::byte> bytes, std::string source) {
  const auto fail = [&](std::string_view what) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: no file of tokens: {}", source, what));
  };
  TokenCorpus corpus;
  Header header;
  Footer footer;
  if (bytes.size() < sizeof(header) + sizeof(footer)) fail("too short");
  std::memcpy(&header, bytes.data(), sizeof(header));
  std::memcpy(&footer, bytes.data() + bytes.size() - sizeof(footer), sizeof(footer));
  if (std::string_view(header.magic, sizeof(header.magic)) != kMagic) fail("it begins otherwise");
  if (header.version != kVersion) fail(fmt::format("version {}", header.version));
  if (header.token_bytes != 2 && header.token_bytes != 4) fail("tokens of a strange size");
  if (header.vocab_size == 0 || header.vocab_size > uint64_t{1} << 31) fail("its vocabulary");
  // Each count is below the file's size, so that sums of their products cannot overflow.
  const size_t room = bytes.size() - sizeof(header) - sizeof(footer);
  if (footer.tokens > room / header.token_bytes || footer.documents >= room / sizeof(int64_t) ||
      footer.text_bytes > uint64_t{1} << 62) {
    fail("its counts");
  }
  const size_t token_size = static_cast<size_t>(footer.tokens) * header.token_bytes;
  const size_t begins_at = sizeof(header) + token_size + Padding(token_size);
  const size_t begins_count = static_cast<size_t>(footer.documents) + 1;
  if (begins_at + begins_count * sizeof(int64_t) + sizeof(footer) != bytes.size()) {
    fail("its size");
  }
  corpus.begins_.resize(begins_count);
  std::memcpy(corpus.begins_.data(), bytes.data() + begins_at, begins_count * sizeof(int64_t));
  if (ChecksumOf(header, corpus.begins_, footer) != footer.checksum) fail("its checksum");
  // What follows the checksum vouches for, but not for who wrote it.
  bool sorted =
      corpus.begins_.front() == 0 && corpus.begins_.back() == static_cast<int64_t>(footer.tokens);
  bool has_target = false;
  for (size_t i = 1; sorted && i < begins_count; ++i) {
    sorted = corpus.begins_[i] > corpus.begins_[i - 1];
    // Of neighbours in order from 0 on, so that no difference overflows.
    has_target = has_target || (sorted && corpus.begins_[i] - corpus.begins_[i - 1] >= 2);
  }
  if (!sorted || !has_target) fail("its documents");
  corpus.source_ = std::move(source);
  corpus.data_ = bytes.data() + sizeof(header);
  corpus.token_bytes_ = header.token_bytes;
  corpus.key_ = header.key;
  corpus.vocab_size_ = static_cast<int64_t>(header.vocab_size);
  corpus.text_bytes_ = static_cast<int64_t>(footer.text_bytes);
  return corpus;
}

void TokenCorpus::Read(int64_t position, std::span<int32_t> tokens) const {
  const std::byte* from = data_ + static_cast<size_t>(position) * token_bytes_;
  for (size_t i = 0; i < tokens.size(); ++i) {
    uint32_t token = 0;  // the other half of a token of two bytes
    std::memcpy(&token, from + i * token_bytes_, token_bytes_);
    if (token >= static_cast<uint64_t>(vocab_size_)) {
      throw Error(ErrorCode::kCorrupt,
                  fmt::format("{}: token {} at {}, expected one below {}", source_, token,
                              position + static_cast<int64_t>(i), vocab_size_));
    }
    tokens[i] = static_cast<int32_t>(token);
  }
}

uint64_t TokenCorpus::Fingerprint() const {
  const uint64_t parts[] = {key_, static_cast<uint64_t>(tokens()),
                            static_cast<uint64_t>(documents())};
  return XXH64(parts, sizeof(parts), 0);
}

}  // namespace adder
