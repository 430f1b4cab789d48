// Batches hold the text they should, cut where they should, and depend on their number alone.
#include "adder/data/batch_sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/core/target.h"
#include "adder/data/byte_corpus.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

// Documents whose bytes say where they are: document d, byte i holds d · 16 + i % 16.
class BatchSamplerTest : public ::testing::Test {
 protected:
  ByteCorpus Corpus(const std::vector<int>& lengths) {
    const fs::path folder = directory_.path();
    std::vector<fs::path> files;
    for (size_t d = 0; d < lengths.size(); ++d) {
      std::string text;
      for (int i = 0; i < lengths[d]; ++i) text += static_cast<char>(d * 16 + i % 16);
      files.push_back(folder / std::to_string(d));
      std::ofstream(files.back(), std::ios::binary) << text;
    }
    return ByteCorpus::Open(files);
  }

  TemporaryDirectory directory_;
};

std::vector<int32_t> Values(const Tensor& tensor) {
  const auto* data = tensor.data<int32_t>();
  return {data, data + tensor.elements()};
}

// What holds for every batch: within a sequence each target is the next token, and sequences hold
// stretches of one document.
void CheckBatch(const Batch& batch) {
  const auto tokens = Values(batch.tokens);
  const auto targets = Values(batch.targets);
  ASSERT_EQ(batch.layout.rows(), static_cast<int64_t>(tokens.size()));
  int64_t counted = 0;
  for (int64_t s = 0; s < batch.layout.sequences(); ++s) {
    for (int64_t t = batch.layout.begin(s); t < batch.layout.end(s); ++t) {
      const auto i = static_cast<size_t>(t);
      EXPECT_EQ(tokens[i] / 16, tokens[static_cast<size_t>(batch.layout.begin(s))] / 16);
      if (t + 1 < batch.layout.end(s)) {
        EXPECT_EQ(targets[i], tokens[i + 1]);
      }
      if (targets[i] != kIgnoreTarget) {
        ++counted;
        EXPECT_EQ(targets[i], tokens[i] / 16 * 16 + (tokens[i] + 1) % 16);
      }
    }
  }
  EXPECT_EQ(batch.target_rows, counted);
}

TEST_F(BatchSamplerTest, WindowsCoverAllPlacesAndRespectBorders) {
  const auto corpus = Corpus({40, 3, 25});
  BatchSampler sampler(corpus, {.batch = 4, .length = 8, .streams = 0, .seed = 7});
  std::map<std::pair<int32_t, int64_t>, int> begins;
  bool crossed = false;
  for (int64_t i = 0; i < 400; ++i) {
    const Batch batch = sampler.Get(i);
    CheckBatch(batch);
    EXPECT_EQ(batch.layout.rows(), 32);
    crossed = crossed || batch.layout.sequences() > 4;
    EXPECT_TRUE(batch.continues.empty());
    ++begins[{Values(batch.tokens)[0], batch.target_rows}];
  }
  EXPECT_TRUE(crossed);
  // The last byte of a window has a target as long as its document goes on.
  EXPECT_GT(begins.size(), 20u);
}

TEST_F(BatchSamplerTest, BatchesDependOnTheirNumberAndSeedOnly) {
  const auto corpus = Corpus({100, 7, 51, 13});
  for (const Packing packing : {Packing::kWindows, Packing::kDocuments}) {
    for (const int64_t streams : {0, 6}) {
      BatchOptions options = {packing, 3, 10, streams, 1};
      BatchSampler forward(corpus, options);
      std::vector<Batch> batches;
      for (int64_t i = 0; i < 60; ++i) batches.push_back(forward.Get(i));
      BatchSampler backward(corpus, options);
      for (int64_t i = 59; i >= 0; --i) {
        const Batch batch = backward.Get(i);
        const auto& expected = batches[static_cast<size_t>(i)];
        EXPECT_EQ(Values(batch.tokens), Values(expected.tokens));
        EXPECT_EQ(Values(batch.targets), Values(expected.targets));
        EXPECT_EQ(batch.layout, expected.layout);
        EXPECT_EQ(batch.continues, expected.continues);
      }
      options.seed = 2;
      BatchSampler other(corpus, options);
      int same = 0;
      for (int64_t i = 0; i < 20; ++i) {
        same += Values(other.Get(i).tokens) == Values(batches[static_cast<size_t>(i)].tokens);
      }
      EXPECT_LT(same, 10);
    }
  }
}

TEST_F(BatchSamplerTest, TextShorterThanAWindowIsReadWhole) {
  const auto corpus = Corpus({5});
  BatchSampler sampler(corpus, {.batch = 2, .length = 64, .streams = 0, .seed = 1});
  const Batch batch = sampler.Get(3);
  CheckBatch(batch);
  EXPECT_EQ(batch.layout.rows(), 10);
  EXPECT_EQ(batch.target_rows, 8);
}

TEST_F(BatchSamplerTest, DocumentsAreReadOnceARoundFromTheirBeginning) {
  const std::vector<int> lengths = {5, 12, 9, 2, 4};
  const auto corpus = Corpus(lengths);
  // Two batches of 16 rows are one round of 32 bytes.
  BatchSampler sampler(corpus, {Packing::kDocuments, 2, 8, 0, 3});
  std::set<std::vector<int32_t>> orders;
  for (int64_t round = 0; round < 6; ++round) {
    std::vector<int> seen(lengths.size(), 0);
    std::vector<int32_t> order;
    for (int64_t i = 0; i < 2; ++i) {
      const Batch batch = sampler.Get(2 * round + i);
      CheckBatch(batch);
      const auto tokens = Values(batch.tokens);
      EXPECT_EQ(batch.layout.rows(), 16);
      for (int64_t s = 0; s < batch.layout.sequences(); ++s) {
        EXPECT_LE(batch.layout.length(s), 8);
        const int32_t first = tokens[static_cast<size_t>(batch.layout.begin(s))];
        seen[static_cast<size_t>(first / 16)] += static_cast<int>(batch.layout.length(s));
        if (first % 16 == 0) order.push_back(first / 16);
        // Pieces begin at a document's start, at a multiple of the length, or with the batch.
        EXPECT_TRUE(first % 8 == 0 || s == 0);
      }
    }
    EXPECT_EQ(seen, lengths);
    orders.insert(order);
  }
  EXPECT_GT(orders.size(), 1u);
}

// The rows of one stream, one batch after another, are the text without a gap; sequences continue
// exactly where a document goes on.
TEST_F(BatchSamplerTest, StreamsReadOnWithoutGaps) {
  const std::vector<int> lengths = {90, 7, 41, 1, 22};
  const auto corpus = Corpus(lengths);
  for (const Packing packing : {Packing::kWindows, Packing::kDocuments}) {
    BatchSampler sampler(corpus, {packing, 2, 9, 4, 5});
    std::vector<std::vector<int32_t>> texts(4);
    std::vector<int32_t> next_target(4, kIgnoreTarget);
    for (int64_t i = 0; i < 120; ++i) {
      const Batch batch = sampler.Get(i);
      CheckBatch(batch);
      EXPECT_EQ(batch.first_stream, i % 2 * 2);
      ASSERT_EQ(batch.last.size(), 2u);
      ASSERT_EQ(batch.continues.size(), static_cast<size_t>(batch.layout.sequences()));
      int64_t sequence = 0;
      for (int64_t s = 0; s < 2; ++s) {
        const auto stream = static_cast<size_t>(batch.first_stream + s);
        const int64_t continued = batch.continues[static_cast<size_t>(sequence)];
        // The previous batch of the stream ended inside a document: its last target is the first
        // byte here, and the memory goes on.
        const int32_t first =
            Values(batch.tokens)[static_cast<size_t>(batch.layout.begin(sequence))];
        EXPECT_EQ(continued, next_target[stream] == kIgnoreTarget ? -1 : s);
        if (continued >= 0) {
          EXPECT_EQ(first, next_target[stream]);
        }
        for (; sequence <= batch.last[static_cast<size_t>(s)]; ++sequence) {
          for (int64_t t = batch.layout.begin(sequence); t < batch.layout.end(sequence); ++t) {
            texts[stream].push_back(Values(batch.tokens)[static_cast<size_t>(t)]);
            next_target[stream] = Values(batch.targets)[static_cast<size_t>(t)];
          }
          if (sequence < batch.last[static_cast<size_t>(s)]) {
            EXPECT_EQ(batch.continues[static_cast<size_t>(sequence) + 1], -1);
          }
        }
      }
    }
    // 60 · 9 bytes a stream: more than three times around the 161 bytes of text.
    for (const auto& text : texts) {
      ASSERT_EQ(text.size(), 540u);
      std::vector<int> counts(5, 0);
      for (size_t i = 0; i < 161; ++i) ++counts[static_cast<size_t>(text[i] / 16)];
      if (packing == Packing::kWindows) {
        EXPECT_EQ(counts, lengths);
      }
    }
    EXPECT_NE(texts[0], texts[1]);
  }
}

TEST_F(BatchSamplerTest, RefusesBadOptions) {
  const auto corpus = Corpus({10});
  EXPECT_THROW(BatchSampler(corpus, {.batch = 0}), Error);
  EXPECT_THROW(BatchSampler(corpus, {.length = -1}), Error);
  EXPECT_THROW(BatchSampler(corpus, {.batch = 2, .streams = 3}), Error);
  EXPECT_THROW(BatchSampler(corpus, {.batch = int64_t{1} << 40, .length = int64_t{1} << 40}),
               Error);
}

}  // namespace
}  // namespace adder
