// A picture of what a selective model does with each token: how strongly it writes it into its
// memory, and how much of the older memory it keeps.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adder/models/language_model.h"
#include "adder/text/tokenizer.h"

namespace adder {

// One number per layer and token.
struct SelectionSummary {
  // Geometric mean over the channels of the step dt' (steps of one layer span orders of magnitude).
  std::vector<std::vector<double>> step;
  // Mean over channels and states of the decay exp(dt'·A): what is left of the memory, 0 … 1.
  std::vector<std::vector<double>> decay;
};

SelectionSummary SummarizeSelection(const SelectionTrace& trace);

// What to write under each token's column: its text, with signs for blanks (␣ ⏎ ⇥). The bytes of
// one character that are tokens of their own share its sign: the first has it, the others "·".
// Bytes that are no text are shown in hexadecimal.
std::vector<std::string> TokenLabels(const Tokenizer& tokenizer, std::span<const int32_t> tokens);

// The picture as SVG: two heat maps, the step above the half-life of the memory that the decay
// leaves, a row per layer and a column per token, wrapped like lines of text. Colours compare each
// token with its layer's geometric mean, which is written beside the row; every cell tells its own
// numbers under the pointer. Throws kInvalidArgument when labels and summary disagree, there is
// nothing to show, or a number is no step or decay.
std::string DrawSelection(const SelectionSummary& summary, const std::vector<std::string>& labels,
                          std::string_view title);

}  // namespace adder
