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

ByteCorpus ByteCorpus::Open(std::span<const fs::path> paths, std::string_view separator,
                            const std::atomic<bool>* cancel) {
  // Bytes between two looks at `cancel`.
  constexpr size_t kSearched = size_t{4} << 20;
  ByteCorpus corpus;
  for (const fs::path& path : paths) {
    auto file = MappedFile::Open(path);
    const std::string_view text = file->text();
    if (text.empty()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: the file is empty, expected text to read", path.string()));
    }
    const int64_t begin = corpus.bytes();
    corpus.files_.push_back(std::move(file));
    corpus.stretches_.push_back({begin, text});
    const auto end_document = [&](size_t at) {
      corpus.begins_.push_back(begin + static_cast<int64_t>(at));
    };
    for (size_t at = 0; !separator.empty() && at < text.size();) {
      if (cancel != nullptr && cancel->load()) {
        throw Error(ErrorCode::kCancelled,
                    fmt::format("{}: interrupted while the text was cut", path.string()));
      }
      // Stretches overlap by all but one byte of a separator.
      const std::string_view searched = text.substr(at, kSearched + separator.size() - 1);
      size_t from = 0;
      for (size_t found = searched.find(separator); found != std::string_view::npos;
           found = searched.find(separator, from)) {
        from = found + separator.size();
        end_document(at + from);
      }
      at += std::max(from, kSearched);
    }
    if (corpus.bytes() < begin + static_cast<int64_t>(text.size())) end_document(text.size());
  }
  if (!HasText(corpus)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: no document has two bytes, the least that can be learned from",
                            paths.empty() ? "no files" : paths.front().string()));
  }
  return corpus;
}

std::string_view ByteCorpus::document(int64_t index) const {
  const int64_t first = begin(index);
  const auto next =
      std::upper_bound(stretches_.begin(), stretches_.end(), first,
                       [](int64_t at, const Stretch& stretch) { return at < stretch.begin; });
  const Stretch& stretch = *std::prev(next);
  return stretch.text.substr(static_cast<size_t>(first - stretch.begin),
                             static_cast<size_t>(begin(index + 1) - first));
}

std::pair<ByteCorpus, ByteCorpus> ByteCorpus::SplitTail(double share) const {
  const auto tail_bytes = static_cast<int64_t>(std::ceil(share * static_cast<double>(bytes())));
  const int64_t cut = bytes() - tail_bytes;
  ByteCorpus before;
  ByteCorpus tail;
  before.files_ = tail.files_ = files_;
  for (const auto& [begin, text] : stretches_) {
    const auto head =
        static_cast<size_t>(std::clamp<int64_t>(cut - begin, 0, static_cast<int64_t>(text.size())));
    if (head > 0) before.stretches_.push_back({begin, text.substr(0, head)});
    if (head < text.size()) {
      tail.stretches_.push_back({std::max<int64_t>(0, begin - cut), text.substr(head)});
    }
  }
  for (const int64_t end : std::span(begins_).subspan(1)) {
    if (end < cut) before.begins_.push_back(end);
    if (end > cut) tail.begins_.push_back(end - cut);
  }
  if (cut > 0) before.begins_.push_back(cut);
  if (!HasText(before) || !HasText(tail)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("holding back {} of {} bytes leaves nothing to predict on one side",
                            tail_bytes, bytes()));
  }
  return {std::move(before), std::move(tail)};
}

void ByteCorpus::Read(int64_t position, std::span<int32_t> tokens) const {
  const int64_t index = Find(position);
  const std::string_view text =
      document(index).substr(static_cast<size_t>(position - begin(index)), tokens.size());
  std::transform(text.begin(), text.end(), tokens.begin(),
                 [](char c) { return static_cast<int32_t>(static_cast<uint8_t>(c)); });
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
