// tokenizer.json: what each of its parts does, what is refused, and that the well-known ones give
// the ids they give elsewhere.
#include "adder/text/bpe_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <sstream>
#include <thread>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/formats/file.h"
#include "adder/text/small_tokenizer_test.h"
#include "adder/text/vocabulary.h"
#include "tests/temporary_directory.h"

namespace adder {
namespace {

using test::SmallTokenizer;
using testing::ElementsAre;
using testing::HasSubstr;
using Ids = std::vector<int32_t>;
using Words = std::vector<std::string>;
namespace fs = std::filesystem;

std::string Added(int id, const std::string& content, const std::string& flags = "") {
  return R"({"id": )" + std::to_string(id) + R"(, "content": )" + JsonQuote(content) + flags + "}";
}

// ---- Merges -------------------------------------------------------------------------------------

TEST(BpeTokenizer, MergesInTheOrderLearned) {
  const SmallTokenizer small =
      SmallTokenizer::ByteLevel({{"l", "o"}, {"lo", "w"}, {"e", "r"}, {"Ġ", "low"}, {"w", "er"}});
  EXPECT_EQ(small.Words("low lower wer"), (Words{"low", " low", "er", " ", "wer"}));
  EXPECT_EQ(small.Make()->Encode("low"), Ids{257});
  EXPECT_EQ(small.Make()->vocab_size(), 261);
  EXPECT_TRUE(small.Make()->Encode("").empty());
}

// The pair of the lowest rank, the leftmost of it, again and again.
Ids MergeSlowly(Ids ids,
                const std::map<std::pair<int32_t, int32_t>, std::pair<int, int32_t>>& merges) {
  while (true) {
    size_t best = ids.size();
    int rank = 1 << 30;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto merge = merges.find({ids[i], ids[i + 1]});
      if (merge != merges.end() && merge->second.first < rank) {
        best = i;
        rank = merge->second.first;
      }
    }
    if (best == ids.size()) return ids;
    ids[best] = merges.at({ids[best], ids[best + 1]}).second;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(BpeTokenizer, WordsOfAnyLengthMergeAsTheDefinitionSays) {
  // Random merges over four letters, not in the order in which training would find them.
  Random random(7);
  Words texts = {"a", "b", "c", "d"};
  SmallTokenizer small;
  small.tokens = texts;
  std::map<std::pair<int32_t, int32_t>, std::pair<int, int32_t>> merges;
  std::map<std::string, int32_t> ids = {{"a", 0}, {"b", 1}, {"c", 2}, {"d", 3}};
  for (int i = 0; i < 60; ++i) {
    const std::string left = texts[random.NextBelow(texts.size())];
    const std::string right = texts[random.NextBelow(texts.size())];
    if (left.size() + right.size() > 12) continue;
    if (std::find(small.merges.begin(), small.merges.end(), std::pair(left, right)) !=
        small.merges.end()) {
      continue;
    }
    small.merges.emplace_back(left, right);
    texts.push_back(left + right);
    ids.emplace(left + right, static_cast<int32_t>(ids.size()));
    merges[{ids.at(left), ids.at(right)}] = {static_cast<int>(small.merges.size()),
                                             ids.at(left + right)};
  }
  const auto tokenizer = small.Make();
  for (const size_t length : {1, 2, 3, 7, 20, 24, 25, 47, 48, 49, 60, 200, 1000}) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::string text;
      Ids begin;
      for (size_t i = 0; i < length; ++i) {
        begin.push_back(static_cast<int32_t>(random.NextBelow(4)));
        text += static_cast<char>('a' + begin.back());
      }
      EXPECT_EQ(tokenizer->Encode(text), MergeSlowly(begin, merges)) << text;
    }
  }
}

TEST(BpeTokenizer, IgnoreMergesTakesWordsThatAreTokens) {
  SmallTokenizer small = SmallTokenizer::ByteLevel({{"a", "b"}, {"b", "c"}, {"a", "bc"}});
  EXPECT_EQ(small.Words("abc"), (Words{"ab", "c"}));
  small.model = R"("type": "BPE", "ignore_merges": true)";
  EXPECT_EQ(small.Words("abc"), Words{"abc"});
  EXPECT_EQ(small.Words("abcc abc"), (Words{"ab", "c", "c", " ", "ab", "c"}));
}

TEST(BpeTokenizer, SeveralThreadsEncodeAtOnce) {
  const SmallTokenizer small = SmallTokenizer::ByteLevel({{"t", "h"}, {"th", "e"}, {"Ġ", "the"}});
  const auto tokenizer = small.Make();
  std::string text;
  for (int i = 0; i < 2000; ++i) text += " the " + std::to_string(i * 7919);
  const Ids expected = tokenizer->Encode(text);
  std::vector<std::thread> threads;
  std::vector<Ids> results(4);
  for (Ids& result : results) {
    threads.emplace_back([&] { result = tokenizer->Encode(text); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Ids& result : results) EXPECT_EQ(result, expected);
}

// ---- Characters and spaces ----------------------------------------------------------------------

SmallTokenizer Llama() {
  SmallTokenizer small;
  small.tokens = {"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
    small.tokens.emplace_back(name);
  }
  for (const char* token : {"\u2581", "a", "b", "é"}) small.tokens.emplace_back(token);
  small.merges = {{"\u2581", "a"}, {"a", "b"}, {"\u2581", "\u2581"}, {"\u2581a", "b"}};
  small.added_tokens = "[" + Added(0, "<unk>", R"(, "special": true)") + "," +
                       Added(1, "<s>", R"(, "special": true)") + "," +
                       Added(2, "</s>", R"(, "special": true)") + "]";
  small.normalizer = R"({"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})";
  small.post_processor = R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}})";
  small.decoder = R"({"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
      {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";
  small.model = R"("type": "BPE", "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>")";
  return small;
}

TEST(BpeTokenizer, SpacesAndBytesAsSentencePieceHasThem) {
  const auto tokenizer = Llama().Make();
  EXPECT_EQ(Llama().Words("ab ab"), (Words{" ab", " ab"}));
  EXPECT_EQ(Llama().Words("  ab"), (Words{"  ", " ab"}));
  EXPECT_EQ(Llama().Words("aé€"), (Words{" a", "é", "\xe2", "\x82", "\xac"}));
  EXPECT_EQ(Llama().Words("b</s>b"), (Words{" ", "b", "</s>", " ", "b"}));
  const Ids ids = tokenizer->Encode("ab €<s>");
  EXPECT_EQ(tokenizer->Decode(ids), "ab €");
  EXPECT_EQ(tokenizer->Decode(ids, false), "ab €<s>");
  EXPECT_EQ(tokenizer->FirstBytes(ids[0]), "ab");
  EXPECT_EQ(tokenizer->Bytes(ids[0]), " ab");
  EXPECT_TRUE(tokenizer->IsSpecial(1));
  EXPECT_FALSE(tokenizer->IsSpecial(ids[0]));
  EXPECT_THAT(tokenizer->prefix_tokens(), ElementsAre(1));
  EXPECT_TRUE(tokenizer->suffix_tokens().empty());
}

TEST(BpeTokenizer, UnknownCharacters) {
  SmallTokenizer small;
  small.tokens = {"<unk>", "a"};
  EXPECT_EQ(small.Make()->Encode("aüöa"), (Ids{1, 1}));
  small.model = R"("type": "BPE", "unk_token": "<unk>")";
  EXPECT_EQ(small.Make()->Encode("aüöa"), (Ids{1, 0, 0, 1}));
  small.model = R"("type": "BPE", "unk_token": "<unk>", "fuse_unk": true)";
  EXPECT_EQ(small.Make()->Encode("aüöa"), (Ids{1, 0, 1}));
}

TEST(BpeTokenizer, BytesThatAreNoTextAreKept) {
  const std::string bytes = "a\xff\xe2\x82 b\xc0\x80";
  const auto tokenizer = SmallTokenizer::ByteLevel({{"Ġ", "b"}}).Make();
  std::string back;
  for (const int32_t token : tokenizer->Encode(bytes)) back += tokenizer->Bytes(token);
  EXPECT_EQ(back, bytes);
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(bytes)), "a\ufffd\ufffd b\ufffd\ufffd");
  EXPECT_EQ(Llama().Words("a\xff"), (Words{" a", "\xff"}));
}

TEST(BpeTokenizer, DecodesTokenByTokenWithoutHalfCharacters) {
  const auto tokenizer = SmallTokenizer::ByteLevel().Make();
  TokenTextStream stream(*tokenizer);
  Words pieces;
  for (const int32_t token : tokenizer->Encode("é€")) pieces.push_back(stream.Push(token));
  EXPECT_EQ(pieces, (Words{"", "é", "", "", "€"}));
  EXPECT_EQ(stream.Finish(), "");
}

// ---- Added tokens -------------------------------------------------------------------------------

TEST(BpeTokenizer, AddedTokensAreFoundInTheText) {
  SmallTokenizer small = SmallTokenizer::ByteLevel();
  small.added_tokens = "[" + Added(256, "<a>", R"(, "special": true)") + "," +
                       Added(257, "<a><b>", R"(, "normalized": false)") + "," + Added(258, "  ") +
                       "," + Added(259, "   ") + "," + Added(260, "<l>", R"(, "lstrip": true)") +
                       "," + Added(261, "<r>", R"(, "rstrip": true)") + "," +
                       Added(262, "word", R"(, "single_word": true)") + "]";
  const auto tokenizer = small.Make();
  EXPECT_EQ(tokenizer->vocab_size(), 263);
  const auto ids = [&](const std::string& text) { return tokenizer->Encode(text); };
  EXPECT_EQ(ids("<a><a><b>x"), (Ids{256, 257, 'x'}));  // the longest
  EXPECT_EQ(ids("a     b"), (Ids{'a', 259, 258, 'b'}));
  EXPECT_EQ(ids("a\n\t<l> b"), (Ids{'a', 260, ' ', 'b'}));
  EXPECT_EQ(ids("a <r>\n\tb"), (Ids{'a', ' ', 261, 'b'}));
  EXPECT_EQ(ids("word words word"), (Ids{262, ' ', 'w', 'o', 'r', 'd', 's', ' ', 262}));
  EXPECT_EQ(ids("<a"), (Ids{'<', 'a'}));
  EXPECT_EQ(tokenizer->Decode(Ids{'x', 256, 257}), "x<a><b>");
  EXPECT_EQ(tokenizer->Decode(Ids{'x', 256, 257}, false), "x<a><a><b>");
}

TEST(BpeTokenizer, NormalizedTokensAreFoundInNormalizedText) {
  SmallTokenizer small = SmallTokenizer::ByteLevel();
  small.normalizer = R"({"type": "Lowercase"})";
  small.added_tokens = "[" + Added(256, "YES", R"(, "normalized": true)") + "," +
                       Added(257, "NO", R"(, "normalized": false)") + "]";
  EXPECT_EQ(small.Make()->Encode("Yes YES NO no"), (Ids{256, ' ', 256, ' ', 257, ' ', 'n', 'o'}));
}

// ---- Normalizers --------------------------------------------------------------------------------

std::string Normalized(const std::string& normalizer, const std::string& text) {
  SmallTokenizer small = SmallTokenizer::ByteLevel();
  small.normalizer = normalizer;
  std::string result;
  for (const std::string& word : small.Words(text)) result += word;
  return result;
}

TEST(Normalizer, NormalForms) {
  const std::string text = "Cafe\u0301 \u00e9 \ufb01 \u0344 \u1112\u1161\u11ab \u304b\u3099";
  EXPECT_EQ(Normalized(R"({"type": "NFC"})", text),
            "Caf\u00e9 \u00e9 \ufb01 \u0308\u0301 \ud55c \u304c");
  EXPECT_EQ(Normalized(R"({"type": "NFD"})", text),
            "Cafe\u0301 e\u0301 \ufb01 \u0308\u0301 \u1112\u1161\u11ab \u304b\u3099");
  EXPECT_EQ(Normalized(R"({"type": "NFKC"})", text),
            "Caf\u00e9 \u00e9 fi \u0308\u0301 \ud55c \u304c");
  EXPECT_EQ(Normalized(R"({"type": "NFKD"})", text),
            "Cafe\u0301 e\u0301 fi \u0308\u0301 \u1112\u1161\u11ab \u304b\u3099");
  // Marks come into the order of their classes, before and after composition.
  EXPECT_EQ(Normalized(R"({"type": "NFC"})", "a\u0301\u0316"), "\u00e1\u0316");
  EXPECT_EQ(Normalized(R"({"type": "NFC"})", "\u0301a"), "\u0301a");
}

// Marks without end take no quadratic time.
TEST(Normalizer, AMillionMarks) {
  std::string marks = "a";
  for (int i = 0; i < 250000; ++i) marks += "\u0301\u0316";
  EXPECT_EQ(Normalized(R"({"type": "NFC"})", marks).size(), marks.size() - 1);
}

TEST(Normalizer, TheOthers) {
  EXPECT_EQ(Normalized(R"({"type": "Lowercase"})", "AÄΣ İ"), "aäσ i\u0307");
  EXPECT_EQ(Normalized(R"({"type": "Prepend", "prepend": "x"})", "ab"), "xab");
  EXPECT_EQ(
      Normalized(R"({"type": "Strip", "strip_left": true, "strip_right": false})", "\u3000 a b "),
      "a b ");
  EXPECT_EQ(Normalized(R"({"type": "Strip", "strip_left": false, "strip_right": true})", " a \n"),
            " a");
  EXPECT_EQ(
      Normalized(R"({"type": "Replace", "pattern": {"String": ".."}, "content": "-"})", "a.....b"),
      "a--.b");
  EXPECT_EQ(
      Normalized(R"({"type": "Replace", "pattern": {"Regex": "\\d+|$"}, "content": "#"})", "a12b"),
      "a#b#");
  EXPECT_EQ(Normalized(R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"},
                       {"type": "Prepend", "prepend": "A"}]})",
                       "B"),
            "Ab");
}

// ---- Pre-tokenizers -----------------------------------------------------------------------------

// The words between which nothing merges: with a merge for every pair of letters, a token each.
Words Cut(const std::string& pre_tokenizer, const std::string& text) {
  Normalizer none;
  const JsonObject file = JsonObject::Parse("{\"pre_tokenizer\": " + pre_tokenizer + "}", "test");
  const PreTokenizer cutter = PreTokenizer::Parse(file);
  Words words;
  cutter.Apply({text, true, false},
               [&](const TextPiece& piece) { words.emplace_back(piece.text); });
  return words;
}

std::string Split(const std::string& pattern, const std::string& behavior,
                  const std::string& more = "") {
  return R"({"type": "Split", "pattern": )" + pattern + R"(, "behavior": ")" + behavior + "\"" +
         more + "}";
}

TEST(PreTokenizer, SplitBehaviors) {
  const std::string text = "a--b-";
  const std::string dash = R"({"String": "-"})";
  EXPECT_EQ(Cut(Split(dash, "Removed"), text), (Words{"a", "b"}));
  EXPECT_EQ(Cut(Split(dash, "Isolated"), text), (Words{"a", "-", "-", "b", "-"}));
  EXPECT_EQ(Cut(Split(dash, "MergedWithPrevious"), text), (Words{"a-", "-", "b-"}));
  EXPECT_EQ(Cut(Split(dash, "MergedWithNext"), text), (Words{"a", "-", "-b", "-"}));
  EXPECT_EQ(Cut(Split(dash, "Contiguous"), text), (Words{"a", "--", "b", "-"}));
  const std::string letters = R"({"Regex": "[a-z]+"})";
  EXPECT_EQ(Cut(Split(letters, "Removed", R"(, "invert": true)"), "ab12cd"), (Words{"ab", "cd"}));
  EXPECT_EQ(Cut(Split(letters, "Isolated"), "ab12cd"), (Words{"ab", "12", "cd"}));
}

TEST(PreTokenizer, TheOthers) {
  EXPECT_EQ(Cut(R"({"type": "Digits", "individual_digits": true})", "a12\u00bd"),
            (Words{"a", "1", "2", "\u00bd"}));
  EXPECT_EQ(Cut(R"({"type": "Digits"})", "a12b"), (Words{"a", "12", "b"}));
  EXPECT_EQ(Cut(R"({"type": "Punctuation"})", "a?!b"), (Words{"a", "?", "!", "b"}));
  EXPECT_EQ(Cut(R"({"type": "WhitespaceSplit"})", " a?  b"), (Words{"a?", "b"}));
  EXPECT_EQ(Cut(R"({"type": "Whitespace"})", " a?  b_c"), (Words{"a", "?", "b_c"}));
  EXPECT_EQ(Cut(R"({"type": "Metaspace"})", "a b  c"), (Words{"▁a", "▁b", "▁", "▁c"}));
  EXPECT_EQ(Cut(R"({"type": "Metaspace", "prepend_scheme": "never", "split": false})", "a b"),
            (Words{"a▁b"}));
  EXPECT_EQ(Cut(R"({"type": "Metaspace", "add_prefix_space": false})", "a b"), (Words{"a", "▁b"}));
  // The alphabet of bytes shows where something comes after it.
  EXPECT_EQ(Cut(R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"},
                {"type": "Digits"}]})",
                "é 12"),
            (Words{"ĠÃ©", "Ġ", "12"}));
  EXPECT_EQ(Cut(R"({"type": "ByteLevel", "add_prefix_space": true})", "a b"), (Words{" a", " b"}));
}

// The hand-written words of GPT-2 are those of its regular expression.
TEST(PreTokenizer, Gpt2sWordsAreItsPatterns) {
  const std::string expression =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+)";
  // A group changes nothing, but is no expression that is known.
  const std::string slow = Split("{\"Regex\": \"(?:)" + expression + "\"}", "Isolated");
  const std::string fast = R"({"type": "ByteLevel", "add_prefix_space": false})";
  const Words parts = {"a",  "Z",  "é",      "ß",      "1",      "²",      " ",  "  ",  "\n", "\t",
                       "'",  "'s", "'S",     "'ll",    "'v",     "e",      "re", ".",   "!?", "_",
                       "字", "😀",  "\u00a0", "\u3000", "\u0301", "\u2028", "d",  "\r\n"};
  Random random(3);
  for (int i = 0; i < 3000; ++i) {
    std::string text;
    const uint64_t count = random.NextBelow(12);
    for (uint64_t k = 0; k < count; ++k) text += parts[random.NextBelow(parts.size())];
    ASSERT_EQ(Cut(fast, text), Cut(slow, text)) << text;
  }
}

// ---- Long texts ---------------------------------------------------------------------------------

TEST(BpeTokenizer, PartsGiveTheTokensOfTheWhole) {
  SmallTokenizer neox = SmallTokenizer::ByteLevel({{"t", "h"}, {"Ġ", "th"}, {"Ġth", "e"}});
  neox.normalizer = R"({"type": "NFC"})";
  neox.added_tokens =
      "[" + Added(259, "  ") + "," + Added(260, "<e>", R"(, "special": true)") + "]";
  const Words parts = {"the ", " the", "é",   "e\u0301", "<e>", " <e> ",
                       "\n",   "  ",   "x y", ".",       "ab",  " "};
  Random random(11);
  for (const SmallTokenizer& small : {neox, Llama()}) {
    const auto tokenizer = small.Make();
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::string text;
      for (int i = 0; i < 100; ++i) text += parts[random.NextBelow(parts.size())];
      const size_t bytes = 1 + random.NextBelow(40);
      Ids tokens;
      size_t total = 0;
      size_t count = 0;
      tokenizer->EncodeParts(text, bytes, [&](std::span<const int32_t> some, size_t length) {
        tokens.insert(tokens.end(), some.begin(), some.end());
        total += length;
        ++count;
      });
      ASSERT_EQ(tokens, tokenizer->Encode(text)) << text;
      EXPECT_EQ(total, text.size());
      EXPECT_GT(count, 2u);
    }
  }
}

// ---- Vocabularies of GGUF -----------------------------------------------------------------------

void ExpectSame(const Tokenizer& a, const Tokenizer& b, const Words& texts) {
  EXPECT_EQ(a.vocab_size(), b.vocab_size());
  for (const std::string& text : texts) {
    EXPECT_EQ(a.Encode(text), b.Encode(text)) << text;
    EXPECT_EQ(a.Decode(a.Encode(text)), b.Decode(a.Encode(text))) << text;
  }
}

TEST(Vocabulary, OfBytesGoesThereAndBack) {
  SmallTokenizer small = SmallTokenizer::ByteLevel({{"t", "h"}, {"Ġ", "th"}});
  small.normalizer = R"({"type": "NFC"})";
  small.added_tokens = "[" + Added(260, "<e>", R"(, "special": true)") + "," +
                       Added(258, "  ", R"(, "normalized": true)") + "]";
  const auto tokenizer = small.Make();
  const Vocabulary vocabulary = tokenizer->ToVocabulary();
  EXPECT_EQ(vocabulary.model, "gpt2");
  EXPECT_EQ(vocabulary.pre, "olmo");
  EXPECT_EQ(vocabulary.types[260], TokenType::kControl);
  EXPECT_EQ(vocabulary.types[259], TokenType::kUnused);
  EXPECT_EQ(vocabulary.types[258], TokenType::kUserDefined);
  EXPECT_THAT(vocabulary.merges, ElementsAre("t h", "Ġ th"));
  ExpectSame(*tokenizer, *Tokenizer::FromVocabulary(vocabulary, "gguf"),
             {"", "the th", "a  <e> cafe\u0301", "\xff"});
  // A model's tokens around a text.
  Vocabulary begun = vocabulary;
  begun.bos = 260;
  begun.add_bos = true;
  EXPECT_THAT(Tokenizer::FromVocabulary(begun, "gguf")->prefix_tokens(), ElementsAre(260));
  EXPECT_TRUE(Tokenizer::FromVocabulary(begun, "gguf")->ToVocabulary().add_bos);
  const auto bytes = Tokenizer::FromVocabulary(ByteTokenizer().ToVocabulary(), "gguf");
  EXPECT_NE(dynamic_cast<const ByteTokenizer*>(bytes.get()), nullptr);
}

TEST(Vocabulary, OfSentencePieceMergesByScore) {
  const auto tokenizer = Llama().Make();
  Vocabulary vocabulary = tokenizer->ToVocabulary();
  EXPECT_EQ(vocabulary.model, "llama");
  EXPECT_TRUE(vocabulary.add_bos);
  EXPECT_EQ(vocabulary.bos, 1);
  EXPECT_EQ(vocabulary.types[0], TokenType::kUnknown);
  EXPECT_EQ(vocabulary.types[3 + 0x41], TokenType::kByte);
  const Words texts = {"", "ab ab", "  a  bab", "é€", "a</s> b"};
  ExpectSame(*tokenizer, *Tokenizer::FromVocabulary(vocabulary, "gguf"), texts);
  vocabulary.merges.clear();  // as SentencePiece has it: scores alone
  ExpectSame(*tokenizer, *Tokenizer::FromVocabulary(vocabulary, "gguf"), texts);
  vocabulary.add_space_prefix = false;
  EXPECT_EQ(Tokenizer::FromVocabulary(vocabulary, "gguf")->Encode("ab").size(), 1u);
}

TEST(Vocabulary, ListsThatContradictEachOtherAreRefused) {
  const Vocabulary good = Llama().Make()->ToVocabulary();
  const auto refused = [](const Vocabulary& vocabulary, ErrorCode code, const std::string& what) {
    try {
      Tokenizer::FromVocabulary(vocabulary, "model.gguf");
      ADD_FAILURE() << "accepted, expected: " << what;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_THAT(error.what(), HasSubstr("model.gguf"));
      EXPECT_THAT(error.what(), HasSubstr(what));
    }
  };
  Vocabulary bad = good;
  bad.model = "t5";
  refused(bad, ErrorCode::kUnsupported, "\"t5\"");
  bad = good;
  bad.model = "gpt2";
  bad.pre = "somehow";
  refused(bad, ErrorCode::kUnsupported, "\"somehow\"");
  bad = good;
  bad.tokens.clear();
  bad.types.clear();
  bad.scores.clear();
  refused(bad, ErrorCode::kCorrupt, "no tokens");
  bad = good;
  bad.types.pop_back();
  refused(bad, ErrorCode::kCorrupt, "types");
  bad = good;
  bad.scores.resize(3);
  refused(bad, ErrorCode::kCorrupt, "scores");
  bad = good;
  bad.tokens[5] = bad.tokens[6];
  refused(bad, ErrorCode::kCorrupt, "are both");
  bad = good;
  bad.tokens[5] = "\xff";
  refused(bad, ErrorCode::kCorrupt, "not UTF-8");
  bad = good;
  bad.bos = 100000;
  refused(bad, ErrorCode::kCorrupt, "100000");
  bad = good;
  bad.merges.emplace_back("a nothing");
  refused(bad, ErrorCode::kCorrupt, "nothing");
  bad = good;
  bad.merges.clear();
  bad.scores[5 + 256] = std::numeric_limits<float>::quiet_NaN();
  refused(bad, ErrorCode::kCorrupt, "score");
}

// ---- Files --------------------------------------------------------------------------------------

TEST(BpeTokenizer, SavesTheFilesItCameFrom) {
  const TemporaryDirectory from;
  const TemporaryDirectory to;
  const std::string json = SmallTokenizer::ByteLevel({{"a", "b"}}).Json();
  const std::string config = R"({"bos_token": {"content": "ab"}, "eos_token": "a"})";
  WriteFileAtomically(from.path() / "tokenizer.json", json);
  WriteFileAtomically(from.path() / "tokenizer_config.json", config);
  const auto tokenizer = Tokenizer::Load(from.path());
  tokenizer->Save(to.path());
  EXPECT_EQ(ReadFile(to.path() / "tokenizer.json"), json);
  EXPECT_EQ(ReadFile(to.path() / "tokenizer_config.json"), config);
  EXPECT_FALSE(fs::exists(to.path() / "special_tokens_map.json"));
  EXPECT_EQ(tokenizer->ToVocabulary().bos, 256);
  EXPECT_EQ(tokenizer->ToVocabulary().eos, 'a');
  EXPECT_EQ(Tokenizer::Load(from.path() / "tokenizer.json")->Encode("ab"), Ids{256});
}

TEST(BpeTokenizer, ReadsThePairOfFilesOfGpt2) {
  const TemporaryDirectory directory;
  std::string vocab = "{";
  for (int byte = 0; byte < 256; ++byte) {
    vocab += JsonQuote(ByteLevelCharacter(static_cast<unsigned char>(byte))) + ":" +
             std::to_string(byte) + ",";
  }
  vocab += R"("Ġa": 256, "<|endoftext|>": 257})";
  WriteFileAtomically(directory.path() / "vocab.json", vocab);
  WriteFileAtomically(directory.path() / "merges.txt", "#version: 0.2\nĠ a\r\n");
  const auto tokenizer = Tokenizer::Load(directory.path());
  EXPECT_EQ(tokenizer->Encode("a a<|endoftext|>"), (Ids{'a', 256, 257}));
  EXPECT_TRUE(tokenizer->IsSpecial(257));
}

struct Refusal {
  const char* name;
  ErrorCode code;
  std::string json;
  std::string message;
};

std::vector<Refusal> Refusals() {
  const SmallTokenizer good = SmallTokenizer::ByteLevel({{"a", "b"}});
  std::vector<Refusal> refusals;
  const auto add = [&](const char* name, ErrorCode code, const std::string& message,
                       const std::function<void(SmallTokenizer&)>& change) {
    SmallTokenizer bad = good;
    change(bad);
    refusals.push_back({name, code, bad.Json(), message});
  };
  const auto corrupt = ErrorCode::kCorrupt;
  const auto unsupported = ErrorCode::kUnsupported;
  add("wordpiece", unsupported, "\"WordPiece\"",
      [](auto& t) { t.model = R"("type": "WordPiece")"; });
  add("dropout", unsupported, "dropout",
      [](auto& t) { t.model = R"("type": "BPE", "dropout": 0.1)"; });
  add("suffix", unsupported, "end_of_word_suffix",
      [](auto& t) { t.model = R"("type": "BPE", "end_of_word_suffix": "</w>")"; });
  add("unknown", corrupt, "unk_token",
      [](auto& t) { t.model = R"("type": "BPE", "unk_token": "<unk>")"; });
  add("normalizer", unsupported, "\"BertNormalizer\"",
      [](auto& t) { t.normalizer = R"({"type": "BertNormalizer"})"; });
  add("nested normalizer", unsupported, "normalizer.normalizers[1].type", [](auto& t) {
    t.normalizer = R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Nmt"}]})";
  });
  add("pre-tokenizer", unsupported, "\"UnicodeScripts\"",
      [](auto& t) { t.pre_tokenizer = R"({"type": "UnicodeScripts"})"; });
  add("regex", unsupported, "cannot be used",
      [](auto& t) { t.pre_tokenizer = Split(R"({"Regex": "(a"})", "Isolated"); });
  add("behavior", corrupt, "\"Sometimes\"",
      [](auto& t) { t.pre_tokenizer = Split(R"({"String": "a"})", "Sometimes"); });
  add("empty pattern", corrupt, "String",
      [](auto& t) { t.pre_tokenizer = Split(R"({"String": ""})", "Isolated"); });
  add("two byte levels", unsupported, "ByteLevel", [](auto& t) {
    t.pre_tokenizer =
        R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "ByteLevel"}]})";
  });
  // What would fill the memory or the stack from a small file.
  const auto many = [](const char* key, const char* step, int count) {
    std::string steps = step;
    for (int i = 1; i < count; ++i) steps += std::string(", ") + step;
    return std::string(R"({"type": "Sequence", ")") + key + "\": [" + steps + "]}";
  };
  constexpr const char* kDouble =
      R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"})";
  add("a long row of pre-tokenizers", unsupported, "at most 64 steps",
      [&](auto& t) { t.pre_tokenizer = many("pretokenizers", R"({"type": "Digits"})", 100000); });
  add("a long row of normalizers", unsupported, "at most 64 steps",
      [&](auto& t) { t.normalizer = many("normalizers", R"({"type": "NFC"})", 65); });
  add("a decoder that doubles again and again", unsupported, "of the token \"a\"",
      [&](auto& t) { t.decoder = many("decoders", kDouble, 40); });
  add("a normalizer that doubles again and again", unsupported, "the normalizer makes more than",
      [&](auto& t) {
        t.normalizer = many("normalizers", kDouble, 40);
        t.added_tokens = R"([{"id": 300, "content": "<a>", "normalized": true}])";
      });
  add("decoder", unsupported, "\"WordPiece\"",
      [](auto& t) { t.decoder = R"({"type": "WordPiece"})"; });
  add("strip behind fuse", unsupported, "Fuse", [](auto& t) {
    t.decoder = R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
                 {"type": "Strip", "content": " ", "start": 2, "stop": 0}]})";
  });
  add("post-processor", unsupported, "\"BertProcessing\"",
      [](auto& t) { t.post_processor = R"({"type": "BertProcessing"})"; });
  add("template without text", corrupt, "single",
      [](auto& t) { t.post_processor = R"({"type": "TemplateProcessing", "single": []})"; });
  add("template's ids", corrupt, "ids", [](auto& t) {
    t.post_processor = R"({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {}}],
        "special_tokens": {"x": {"ids": [999999]}}})";
  });
  const auto replaced = [&](const char* name, const std::string& from, const std::string& to,
                            const std::string& message) {
    std::string json = good.Json();
    const size_t at = json.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    refusals.push_back({name, corrupt, json.replace(at, from.size(), to), message});
  };
  replaced("merge without its token", "\"a b\"", "\"a c\"", "the vocabulary has no token \"ac\"");
  replaced("merge of a stranger", "\"a b\"", "\"a \\u00e7\\u00e7\"", "no token");
  replaced("merge of one", "\"a b\"", "\"ab\"", "two tokens");
  replaced("merge of three", "\"a b\"", "\"a b c\"", "two tokens");
  replaced("merge with nothing", "\"a b\"", "\" ab\"", "no token \"\"");
  replaced("merge that is a number", "\"a b\"", "7", "no pair");
  replaced("merge that is a triple", "\"a b\"", "[\"a\",\"b\",\"c\"]", "no pair");
  replaced("an id twice", "\"ab\":256", "\"ab\":255", "\"ab\"");
  replaced("a negative id", "\"ab\":256", "\"ab\":-1", "\"model.vocab.ab\" is -1");
  replaced("an absurd id", "\"ab\":256", "\"ab\":2000000000", "2000000000");
  replaced("an id that is none", "\"ab\":256", "\"ab\":\"x\"", "expected an id");
  replaced("an added token with another id", "\"added_tokens\": []",
           "\"added_tokens\": [" + Added(7, "ab") + "]", "256");
  replaced("an added token on a taken id", "\"added_tokens\": []",
           "\"added_tokens\": [" + Added(65, "<a>") + "]", "\"A\"");
  replaced("an added token far away", "\"added_tokens\": []",
           "\"added_tokens\": [" + Added(1 << 30, "<a>") + "]", "1073741824");
  replaced("an empty added token", "\"added_tokens\": []",
           "\"added_tokens\": [" + Added(300, "") + "]", "content");
  replaced("added tokens that are none", "\"added_tokens\": []", "\"added_tokens\": [3]",
           "added_tokens[0]");
  return refusals;
}

TEST(BpeTokenizer, RefusesByName) {
  for (const Refusal& refusal : Refusals()) {
    SCOPED_TRACE(refusal.name);
    try {
      Tokenizer::Parse(refusal.json, "bad.json");
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), refusal.code) << error.what();
      EXPECT_THAT(error.what(), HasSubstr("bad.json"));
      EXPECT_THAT(error.what(), HasSubstr(refusal.message));
    }
  }
}

TEST(BpeTokenizer, TokensOutsideTheVocabularyAreRefusedAndHolesAreEmpty) {
  SmallTokenizer small = SmallTokenizer::ByteLevel();
  small.added_tokens = "[" + Added(300, "<x>") + "]";
  const auto tokenizer = small.Make();
  EXPECT_EQ(tokenizer->vocab_size(), 301);
  EXPECT_EQ(tokenizer->Bytes(299), "");
  EXPECT_THROW(tokenizer->Bytes(301), Error);
  EXPECT_THROW(tokenizer->Bytes(-1), Error);
  EXPECT_THROW(tokenizer->IsSpecial(301), Error);
}

// ---- The published ones -------------------------------------------------------------------------

class PublishedTokenizer : public testing::TestWithParam<const char*> {
 protected:
  static fs::path Data() { return fs::path(ADDER_SOURCE_DIR) / "../shared/data"; }

  static std::string Uncompress(const fs::path& path) {
    FILE* pipe = popen(("xz -dc '" + path.string() + "'").c_str(), "r");
    std::string text;
    char buffer[65536];
    size_t count = 0;
    while (pipe != nullptr && (count = fread(buffer, 1, sizeof(buffer), pipe)) > 0) {
      text.append(buffer, count);
    }
    return pipe != nullptr && pclose(pipe) == 0 ? text : "";
  }

  void SetUp() override {
    const fs::path file = Data() / "tokenizers" / (std::string(GetParam()) + ".tokenizer.json.xz");
    if (!fs::exists(file)) GTEST_SKIP() << file << " is not there";
    const std::string json = Uncompress(file);
    if (json.empty()) GTEST_SKIP() << "xz is not installed";
    tokenizer_ = Tokenizer::Parse(json, GetParam());
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(PublishedTokenizer, GivesTheKnownIdsOfTheCases) {
  if (std::string(GetParam()) != "gpt-neox-20b") GTEST_SKIP() << "the cases are GPT-NeoX's";
  const std::string separator = "\n__ggml_vocab_test__\n";
  std::string input = ReadFile(Data() / "tokenizers/bpe-cases.inp");
  std::istringstream output(ReadFile(Data() / "tokenizers/bpe-cases.out"));
  int cases = 0;
  for (size_t end = input.find(separator); end != std::string::npos;
       end = input.find(separator), ++cases) {
    std::string line;
    ASSERT_TRUE(std::getline(output, line));
    std::istringstream numbers(line);
    Ids expected;
    for (int32_t id = 0; numbers >> id;) expected.push_back(id);
    const std::string text = input.substr(0, end);
    EXPECT_EQ(tokenizer_->Encode(text), expected) << text;
    EXPECT_EQ(tokenizer_->Decode(expected), text);
    input.erase(0, end + separator.size());
  }
  EXPECT_EQ(cases, 46);
}

// Five megabytes of books. Number and hash (FNV-1a of the ids) are those of the tokenizers package.
TEST_P(PublishedTokenizer, GivesTheKnownIdsOfBooks) {
  const fs::path file = Data() / "classics/test.txt.xz";
  if (!fs::exists(file)) GTEST_SKIP() << file << " is not there";
  const std::string text = Uncompress(file);
  const Ids ids = tokenizer_->Encode(text);
  uint64_t hash = 0xcbf29ce484222325;
  for (const int32_t id : ids) hash = (hash ^ static_cast<uint64_t>(id)) * 0x100000001b3;
  const bool neox = std::string(GetParam()) == "gpt-neox-20b";
  EXPECT_EQ(ids.size(), neox ? 1249736u : 1242359u);
  EXPECT_EQ(hash, neox ? 0xb696f0aad3c96414u : 0x4041c776f38ec6a0u);
  EXPECT_EQ(tokenizer_->Decode(ids), text);
  // And through the lists of a GGUF file.
  const auto again = Tokenizer::FromVocabulary(tokenizer_->ToVocabulary(), "vocabulary");
  EXPECT_TRUE(again->Encode(text) == ids);
}

INSTANTIATE_TEST_SUITE_P(All, PublishedTokenizer, testing::Values("gpt-neox-20b", "gpt2"),
                         [](const auto& tested) {
                           return std::string(tested.param) == "gpt2" ? "Gpt2" : "GptNeoX";
                         });

}  // namespace
}  // namespace adder
