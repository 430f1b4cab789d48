// What the tests of whole runs share: a text to learn, and what is the same after the same run.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <regex>
#include <string>
#include <vector>

#include "adder/core/random.h"
#include "adder/formats/file.h"

namespace adder::test {

// Words in an order that can be learned, a little.
inline std::string TextOfWords(int words) {
  const std::vector<std::string> vocabulary = {"the ", "snake ", "sleeps ", "in ", "a ", "tree.\n"};
  Random random(1);
  std::string text;
  size_t word = 0;
  for (int i = 0; i < words; ++i) {
    text += vocabulary[word];
    word = random.NextBelow(4) == 0 ? random.NextBelow(6) : (word + 1) % 6;
  }
  return text;
}

// What a run leaves that must be the same for the same run: weights, optimizer and carried state of
// the last checkpoint, the resulting model, and the metrics without the clock's part.
struct RunResult {
  std::string weights, optimizer, carried, model, metrics;
};

inline RunResult RunResultOf(const std::filesystem::path& run) {
  const auto read = [&](const char* name) {
    return std::filesystem::exists(run / name) ? ReadFile(run / name) : std::string();
  };
  static const std::regex kClock(",\"(tokens_per_second|elapsed)\":[0-9.e+-]+");
  return {read("latest/model.safetensors"), read("latest/optimizer.safetensors"),
          read("latest/carried.safetensors"), read("model/model.safetensors"),
          std::regex_replace(read("metrics.jsonl"), kClock, "")};
}

inline void ExpectSameRun(const RunResult& a, const RunResult& b) {
  EXPECT_TRUE(a.weights == b.weights);
  EXPECT_TRUE(a.optimizer == b.optimizer);
  EXPECT_TRUE(a.carried == b.carried);
  EXPECT_TRUE(a.model == b.model);
  EXPECT_EQ(a.metrics, b.metrics);
}

}  // namespace adder::test
