// Which tokens a training step reads. A batch is a pure function of the sampler's options and the
// batch's number, so that a resumed run reads what the uninterrupted one would have.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "adder/core/permutation.h"
#include "adder/core/sequence_layout.h"
#include "adder/core/tensor.h"
#include "adder/data/training_corpus.h"

namespace adder {

enum class Packing {
  kWindows,    // stretches of the text, wherever they begin
  kDocuments,  // documents, each from its beginning, in an order shuffled anew each time around
};

struct BatchOptions {
  Packing packing = Packing::kWindows;
  int64_t batch = 1;    // rows of text side by side
  int64_t length = 1;   // tokens of each
  int64_t streams = 0;  // 0: rows are independent. Otherwise the number of rows of text that go on
                        // from step to step, a multiple of batch (see below)
  uint64_t seed = 0;
};

// Rows of text as sequences laid end to end. A sequence never crosses the border of a document.
struct Batch {
  Tensor tokens;   // i32 [rows]
  Tensor targets;  // i32 [rows]: the next token, kIgnoreTarget at a document's last
  SequenceLayout layout;
  int64_t target_rows = 0;  // rows whose target counts
  // Only with streams; stream s of this batch is number first_stream + s of the sampler's.
  int64_t first_stream = 0;
  std::vector<int64_t> continues;  // per sequence: the batch's stream whose memory it begins with,
                                   // or -1: it begins from nothing
  std::vector<int64_t> last;       // per stream: the sequence that ends it
};

// Without streams:
//   windows    each row is `length` tokens from a place drawn uniformly at random (all of a text
//   that
//              is shorter); a document's border inside starts a new sequence.
//   documents  a batch is batch · length tokens of the documents laid end to end in shuffled order;
//              each is a sequence, in pieces of `length` tokens where it is longer; the batch's end
//              cuts.
// With streams (truncated backpropagation carries their memory): stream s reads on through the
// whole text without gaps, beginning a part s / streams of it after a place drawn from the seed;
// batch i holds `length` tokens of streams [batch · i, batch · (i + 1)) modulo `streams`. In
// windows packing the text keeps its order, in documents packing it is shuffled. Documents are not
// cut but by the end of a batch, where they go on in the next.
class BatchSampler {
 public:
  // Throws kInvalidArgument for options that are not positive or do not divide. The corpus must
  // outlive the sampler.
  BatchSampler(const TrainingCorpus& corpus, const BatchOptions& options);

  const BatchOptions& options() const { return options_; }
  // The batch of that number, from 0.
  Batch Get(int64_t index);

 private:
  struct Place {
    int64_t document;
    int64_t offset;  // in the document
  };
  // The documents of one time around the text, in shuffled order.
  struct Order {
    int64_t round = -1;
    Permutation documents;
    std::vector<int64_t> begins;  // where each kLandmark-th begins in this round
  };

  const Order& ShuffledOrder(int64_t round);
  // A position in the endless text: all documents, time after time.
  Place Locate(int64_t position);

  const TrainingCorpus& corpus_;
  BatchOptions options_;
  // Of the shuffled rounds, the two read last: the streams of a batch lie at most one apart.
  std::array<Order, 2> orders_;
  int64_t rotation_ = 0;
};

}  // namespace adder
