// The folder of a training run: who may write in it, where things lie, and its checkpoints.
//
//     config.toml        the effective config, every key
//     metrics.jsonl      a line per step and evaluation
//     pace.jsonl         estimates of a run by time (see pace.h)
//     loss.svg           the curves
//     events.out.…       the same numbers for TensorBoard
//     checkpoints/step-00001000/
//     latest             link to the newest checkpoint
//     model/             the result: a Hugging Face directory
//     lock               held while somebody trains here
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>

namespace adder {

class RunFolder {
 public:
  // Creates the folder where it is missing and locks it until the object ends. What a killed run
  // left half-written is removed. Throws kIo; kInvalidArgument when another process trains here.
  explicit RunFolder(std::filesystem::path path);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config() const { return path_ / "config.toml"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path pace() const { return path_ / "pace.jsonl"; }
  std::filesystem::path loss_curve() const { return path_ / "loss.svg"; }
  std::filesystem::path model() const { return path_ / "model"; }

  // All checkpoints by step. They are complete or absent.
  std::map<int64_t, std::filesystem::path> Checkpoints() const;
  // The newest checkpoint, or an empty path.
  std::filesystem::path LatestCheckpoint() const;

  // Writes checkpoints/step-N (fill writes its files), lets `latest` point to it, and then removes
  // all but the newest `keep`. Throws what fill throws, kIo; older checkpoints then stay.
  std::filesystem::path WriteCheckpoint(
      int64_t step, int64_t keep, const std::function<void(const std::filesystem::path&)>& fill);

 private:
  std::filesystem::path path_;
  int lock_ = -1;
};

}  // namespace adder
