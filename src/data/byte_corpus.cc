// Finding, mapping and cutting of training text.
#include "adder/data/byte_corpus.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "adder/core/error.h"
#include "adder/core/random.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> FilesBelow(const fs::path& folder) {
  std::vector<fs::path> files;
  try {
    for (auto entry = fs::recursive_directory_iterator(folder);
         entry != fs::recursive_directory_iterator(); ++entry) {
      const bool hidden = entry->path().filename().string().starts_with(".");
      if (hidden && entry->is_directory()) entry.disable_recursion_pending();
      if (!hidden && entry->is_regular_file()) files.push_back(entry->path());
    }
  } catch (const fs::filesystem_error& error) {
    throw Error(ErrorCode::kIo,
                fmt::format("{}: cannot be read: {}", folder.string(), error.code().message()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<fs::path> FilesMatching(const std::string& pattern) {
  glob_t matches = {};
  const int result = glob(pattern.c_str(), 0, nullptr, &matches);
  std::vector<fs::path> files;
  for (size_t i = 0; i < matches.gl_pathc; ++i) {
    if (fs::is_regular_file(matches.gl_pathv[i])) files.emplace_back(matches.gl_pathv[i]);
  }
  globfree(&matches);
  if (result != 0 && result != GLOB_NOMATCH) {
    throw Error(ErrorCode::kIo, fmt::format("{}: cannot be searched for files", pattern));
  }
  return files;
}

bool HasText(const ByteCorpus& corpus) {
  for (int64_t i = 0; i < corpus.documents(); ++i) {
    if (corpus.document(i).size() >= 2) return true;
  }
  return false;
}

}  // namespace

std::vector<fs::path> ExpandFilePatterns(std::span<const std::string> patterns) {
  std::vector<fs::path> files;
  std::set<fs::path> seen;
  for (const std::string& pattern : patterns) {
    std::vector<fs::path> found;
    std::error_code error;
    if (fs::is_directory(pattern, error)) {
      found = FilesBelow(pattern);
    } else if (fs::exists(pattern, error)) {
      found = {pattern};
    } else {
      found = FilesMatching(pattern);
    }
    if (found.empty()) {
      throw Error(ErrorCode::kNotFound,
                  fmt::format("{}: no such file, or a folder or pattern without files", pattern));
    }
    for (const fs::path& file : found) {
      const fs::path path = fs::absolute(file).lexically_normal();
      if (seen.insert(path).second) files.push_back(path);
    }
  }
  return files;
}

ByteCorpus ByteCorpus::Open(std::span<const fs::path> paths, std::string_view separator) {
  ByteCorpus corpus;
  for (const fs::path& path : paths) {
    auto file = MappedFile::Open(path);
    std::string_view text = file->text();
    if (text.empty()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: the file is empty, expected text to read", path.string()));
    }
    corpus.files_.push_back(std::move(file));
    while (!separator.empty()) {
      const size_t found = text.find(separator);
      if (found == std::string_view::npos) break;
      corpus.Add(text.substr(0, found + separator.size()));
      text.remove_prefix(found + separator.size());
    }
    if (!text.empty()) corpus.Add(text);
  }
  if (!HasText(corpus)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: no document has two bytes, the least that can be learned from",
                            paths.empty() ? "no files" : paths.front().string()));
  }
  return corpus;
}

void ByteCorpus::Add(std::string_view text) {
  texts_.push_back(text);
  begins_.push_back(begins_.back() + static_cast<int64_t>(text.size()));
}

std::pair<ByteCorpus, ByteCorpus> ByteCorpus::SplitTail(double share) const {
  const auto tail_bytes = static_cast<int64_t>(std::ceil(share * static_cast<double>(bytes())));
  const int64_t cut = bytes() - tail_bytes;
  ByteCorpus before;
  ByteCorpus tail;
  before.files_ = tail.files_ = files_;
  for (int64_t i = 0; i < documents(); ++i) {
    const std::string_view text = document(i);
    const auto head = static_cast<size_t>(
        std::clamp<int64_t>(cut - begin(i), 0, static_cast<int64_t>(text.size())));
    if (head > 0) before.Add(text.substr(0, head));
    if (head < text.size()) tail.Add(text.substr(head));
  }
  if (!HasText(before) || !HasText(tail)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("holding back {} of {} bytes leaves nothing to predict on one side",
                            tail_bytes, bytes()));
  }
  return {std::move(before), std::move(tail)};
}

int64_t ByteCorpus::Find(int64_t position) const {
  return std::upper_bound(begins_.begin(), begins_.end(), position) - begins_.begin() - 1;
}

uint64_t ByteCorpus::Fingerprint() const {
  constexpr uint64_t kPrime = 0x100000001b3;  // FNV-1a
  constexpr int kSamples = 512;
  uint64_t hash = 0xcbf29ce484222325;
  const auto mix = [&](uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8) hash = (hash ^ ((value >> shift) & 0xff)) * kPrime;
  };
  mix(static_cast<uint64_t>(documents()));
  for (const int64_t begin : begins_) mix(static_cast<uint64_t>(begin));
  Random random(0);
  for (int i = 0; i < kSamples; ++i) {
    const auto position = static_cast<int64_t>(random.NextBelow(static_cast<uint64_t>(bytes())));
    const int64_t index = Find(position);
    mix(static_cast<uint8_t>(document(index)[static_cast<size_t>(position - begin(index))]));
  }
  return hash;
}

}  // namespace adder
