// TensorBoard event files: scalars over steps, as TFRecord-framed protocol buffers
// (tensorflow/core/util/event.proto and summary.proto; only what scalars need).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "adder/formats/append_file.h"

namespace adder {

struct TensorBoardScalar {
  std::string tag;  // "train/loss"
  float value = 0.0f;
};

struct TensorBoardEvent {
  double wall_time = 0.0;  // seconds since 1970
  int64_t step = 0;
  std::vector<TensorBoardScalar> scalars;
};

// Appends events to one file.
class TensorBoardWriter {
 public:
  // Opens the newest event file of the folder, or begins one ("events.out.tfevents.…"). In an
  // existing file the first event for which keep(event) is false, all after it, and a record cut
  // short by a crash, are cut off: a run that goes on from a checkpoint writes them again. Throws
  // kIo.
  TensorBoardWriter(const std::filesystem::path& folder,
                    const std::function<bool(const TensorBoardEvent&)>& keep);
  // Throws kIo naming the file.
  void Write(const TensorBoardEvent& event);

  const std::filesystem::path& path() const { return file_->path(); }

 private:
  std::unique_ptr<AppendFile> file_;
};

// The scalar events of a file's bytes, up to the end or the first damaged record; `whole_bytes`
// gets the length of the part read. Throws kCorrupt for a record whose checksum is right and whose
// content is no event.
std::vector<TensorBoardEvent> ParseTensorBoardEvents(std::string_view bytes, size_t* whole_bytes);

}  // namespace adder
