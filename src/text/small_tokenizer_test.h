// Small tokenizer.json files for tests.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adder/formats/json.h"
#include "adder/text/byte_level.h"
#include "adder/text/tokenizer.h"

namespace adder::test {

// A tokenizer.json of which a test says what matters. Tokens that merges make are added to the
// vocabulary, in their order.
struct SmallTokenizer {
  std::vector<std::string> tokens;  // ids from 0
  std::vector<std::pair<std::string, std::string>> merges;
  std::string added_tokens = "[]";
  std::string normalizer = "null";
  std::string pre_tokenizer = "null";
  std::string post_processor = "null";
  std::string decoder = "null";
  std::string model = R"("type": "BPE")";  // further fields of the model

  // Over bytes, cut as GPT-2 does; token i is byte i.
  static SmallTokenizer ByteLevel(std::vector<std::pair<std::string, std::string>> merges = {}) {
    SmallTokenizer tokenizer;
    for (int byte = 0; byte < 256; ++byte) {
      tokenizer.tokens.push_back(ByteLevelCharacter(static_cast<unsigned char>(byte)));
    }
    tokenizer.merges = std::move(merges);
    tokenizer.pre_tokenizer =
        R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true})";
    tokenizer.decoder = R"({"type": "ByteLevel"})";
    return tokenizer;
  }

  std::string Json() const {
    std::vector<std::string> all = tokens;
    std::string merge_list;
    for (const auto& [left, right] : merges) {
      bool known = false;
      for (const std::string& token : all) known = known || token == left + right;
      if (!known) all.push_back(left + right);
      merge_list +=
          (merge_list.empty() ? "" : ",") + JsonQuote(std::string(left).append(" ").append(right));
    }
    std::string vocab;
    for (size_t id = 0; id < all.size(); ++id) {
      vocab += (id > 0 ? "," : "") + JsonQuote(all[id]) + ":" + std::to_string(id);
    }
    return R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": )" +
           added_tokens + ", \"normalizer\": " + normalizer +
           ", \"pre_tokenizer\": " + pre_tokenizer + ", \"post_processor\": " + post_processor +
           ", \"decoder\": " + decoder + ", \"model\": {" + model + ", \"vocab\": {" + vocab +
           "}, \"merges\": [" + merge_list + "]}}";
  }

  std::unique_ptr<Tokenizer> Make() const { return Tokenizer::Parse(Json(), "small"); }

  // The texts of a text's tokens.
  std::vector<std::string> Words(const std::string& text) const {
    const auto tokenizer = Make();
    std::vector<std::string> words;
    for (const int32_t token : tokenizer->Encode(text)) {
      words.emplace_back(tokenizer->Bytes(token));
    }
    return words;
  }
};

}  // namespace adder::test
