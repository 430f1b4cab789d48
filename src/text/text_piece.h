// A stretch of text on its way to the merges.
#pragma once

#include <string_view>

namespace adder {

struct TextPiece {
  std::string_view text;
  // It begins where the whole text begins.
  bool origin = false;
  // It goes on where an earlier part of the same text was cut: nothing is put before it.
  bool continued = false;

  // The part that begins at `offset`; only the first part keeps the piece's beginning.
  TextPiece Part(size_t offset, size_t length) const {
    return {text.substr(offset, length), origin && offset == 0, continued && offset == 0};
  }
};

}  // namespace adder
