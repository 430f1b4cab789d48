// From positions in the text to tokens, targets and layout.
#include "adder/data/batch_sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <span>

#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/core/shape.h"
#include "adder/core/target.h"

namespace adder {
namespace {

// Philox streams of the run's seed, beside the parameters' own (hashes of their names).
constexpr uint64_t kWindowStream = uint64_t{1} << 40;
constexpr uint64_t kOrderStream = uint64_t{2} << 40;
constexpr uint64_t kRotationStream = uint64_t{3} << 40;

// 32-bit draws set aside for each row, far more than NextBelow ever takes.
constexpr uint64_t kDrawsPerRow = 256;

// Of a shuffled order one beginning in so many is kept: documents may be very many.
constexpr int64_t kLandmark = 64;

int64_t DocumentLength(const TrainingCorpus& corpus, int64_t document) {
  return corpus.begin(document + 1) - corpus.begin(document);
}

// Collects sequences.
class BatchBuilder {
 public:
  explicit BatchBuilder(int64_t capacity) {
    tokens_.reserve(static_cast<size_t>(capacity) + 1);
    targets_.reserve(static_cast<size_t>(capacity));
  }

  // A sequence of `count` tokens of the document from `offset`.
  void Add(const TrainingCorpus& corpus, int64_t document, int64_t offset, int64_t count) {
    const int64_t begin = corpus.begin(document) + offset;
    const bool ends = begin + count == corpus.begin(document + 1);
    const size_t size = tokens_.size();
    // The targets are the same tokens, one further.
    tokens_.resize(size + static_cast<size_t>(count) + (ends ? 0 : 1));
    corpus.Read(begin, std::span(tokens_).subspan(size));
    targets_.insert(targets_.end(), tokens_.begin() + static_cast<std::ptrdiff_t>(size) + 1,
                    tokens_.end());
    if (ends) {
      targets_.push_back(kIgnoreTarget);
    } else {
      tokens_.pop_back();
    }
    lengths_.push_back(count);
  }

  int64_t sequences() const { return static_cast<int64_t>(lengths_.size()); }

  Batch Finish() const {
    Batch batch;
    const auto rows = static_cast<int64_t>(tokens_.size());
    batch.tokens = Tensor::From<int32_t>({rows}, tokens_);
    batch.targets = Tensor::From<int32_t>({rows}, targets_);
    batch.layout = SequenceLayout::FromLengths(lengths_);
    batch.target_rows = rows - std::count(targets_.begin(), targets_.end(), kIgnoreTarget);
    return batch;
  }

 private:
  std::vector<int32_t> tokens_;
  std::vector<int32_t> targets_;
  std::vector<int64_t> lengths_;
};

void CheckPositive(int64_t value, const char* name) {
  if (value < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is {}, expected at least 1", name, value));
  }
}

}  // namespace

BatchSampler::BatchSampler(const TrainingCorpus& corpus, const BatchOptions& options)
    : corpus_(corpus), options_(options) {
  CheckPositive(options.batch, "batch");
  CheckPositive(options.length, "length");
  CheckedProduct(options.batch, options.length, "the rows of a batch");
  if (options.streams < 0 || options.streams % options.batch != 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} streams, expected a multiple of the batch, {}", options.streams,
                            options.batch));
  }
  rotation_ = static_cast<int64_t>(
      Random(options.seed, kRotationStream).NextBelow(static_cast<uint64_t>(corpus.tokens())));
}

const BatchSampler::Order& BatchSampler::ShuffledOrder(int64_t round) {
  if (orders_[0].round == round) return orders_[0];
  if (orders_[1].round == round) return orders_[1];
  Order& order = orders_[0].round < orders_[1].round ? orders_[0] : orders_[1];
  order.round = round;
  order.documents =
      Permutation(corpus_.documents(), options_.seed, kOrderStream + static_cast<uint64_t>(round));
  order.begins.clear();
  int64_t begin = 0;
  for (int64_t i = 0; i < corpus_.documents(); ++i) {
    if (i % kLandmark == 0) order.begins.push_back(begin);
    begin += DocumentLength(corpus_, order.documents(i));
  }
  return order;
}

BatchSampler::Place BatchSampler::Locate(int64_t position) {
  const int64_t within = position % corpus_.tokens();
  if (options_.packing == Packing::kWindows) {
    const int64_t document = corpus_.Find(within);
    return {document, within - corpus_.begin(document)};
  }
  const Order& order = ShuffledOrder(position / corpus_.tokens());
  // From the landmark before the place, document by document.
  const auto next = std::upper_bound(order.begins.begin(), order.begins.end(), within);
  const auto landmark = next - order.begins.begin() - 1;
  int64_t offset = within - order.begins[static_cast<size_t>(landmark)];
  for (int64_t i = landmark * kLandmark;; ++i) {
    const int64_t document = order.documents(i);
    const int64_t length = DocumentLength(corpus_, document);
    if (offset < length) return {document, offset};
    offset -= length;
  }
}

Batch BatchSampler::Get(int64_t index) {
  BatchBuilder builder(options_.batch * options_.length);
  // Reads `count` tokens from `position` of the endless text; a sequence has at most `longest`.
  const auto read = [&](int64_t position, int64_t count, int64_t longest) {
    while (count > 0) {
      const Place piece = Locate(position);
      // Pieces of a document end at multiples of `longest` from its beginning.
      const int64_t rest = std::min(DocumentLength(corpus_, piece.document) - piece.offset,
                                    longest - piece.offset % longest);
      const int64_t taken = std::min(count, rest);
      builder.Add(corpus_, piece.document, piece.offset, taken);
      position += taken;
      count -= taken;
    }
  };
  constexpr int64_t kUncut = std::numeric_limits<int64_t>::max();

  if (options_.streams > 0) {
    std::vector<int64_t> continues;
    std::vector<int64_t> last;
    const int64_t batches = options_.streams / options_.batch;
    const int64_t first = index % batches * options_.batch;
    const int64_t spacing = std::max<int64_t>(1, corpus_.tokens() / options_.streams);
    for (int64_t s = 0; s < options_.batch; ++s) {
      const int64_t start = rotation_ + (first + s) * spacing;
      const int64_t position = start + index / batches * options_.length;
      const bool goes_on = position != start && Locate(position).offset != 0;
      continues.resize(static_cast<size_t>(builder.sequences()), -1);
      continues.push_back(goes_on ? s : -1);
      read(position, options_.length, kUncut);
      last.push_back(builder.sequences() - 1);
    }
    continues.resize(static_cast<size_t>(builder.sequences()), -1);
    Batch batch = builder.Finish();
    batch.first_stream = first;
    batch.continues = std::move(continues);
    batch.last = std::move(last);
    return batch;
  }
  if (options_.packing == Packing::kDocuments) {
    const int64_t rows = options_.batch * options_.length;
    read(index * rows, rows, options_.length);
    return builder.Finish();
  }
  const int64_t length = std::min(options_.length, corpus_.tokens());
  for (int64_t row = 0; row < options_.batch; ++row) {
    const auto number = static_cast<uint64_t>(index * options_.batch + row);
    Random random(options_.seed, kWindowStream, number * kDrawsPerRow);
    const uint64_t places = static_cast<uint64_t>(corpus_.tokens() - length) + 1;
    read(static_cast<int64_t>(random.NextBelow(places)), length, kUncut);
  }
  return builder.Finish();
}

}  // namespace adder
