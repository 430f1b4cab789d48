// Work recorded from a device's queue into a CUDA graph, with the memory and the tables that it
// uses whenever it is repeated. Work that takes much memory is recorded twice: once to see what it
// takes when, and once in a plan of that.
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "adder/backend/cuda/caching_memory.h"
#include "adder/backend/cuda/graph.cuh"

namespace adder::cuda {
namespace {

// Blocks of the cache that a plan may spare some of, and the most that are planned.
constexpr int64_t kWorthAPlan = int64_t{1} << 30;
constexpr size_t kMostPlanned = size_t{1} << 15;

// What recorded work needs to itself for as long as it may be repeated.
class Holdings {
 public:
  // From here on everything that the work takes is noted.
  explicit Holdings(Context& context) : context_(context) {
    context_.memory().BeginRecording();
    context_.BeginHoldingTables();
  }
  Holdings(Context& context, std::vector<PlannedBlock> plan, int64_t bytes)
      : context_(context), piece_(context.memory().BeginPlannedRecording(std::move(plan), bytes)) {
    context_.BeginHoldingTables();
  }
  void End() {
    if (ended_) return;
    ended_ = true;
    recorded_ = context_.memory().EndRecording();
    tables_ = context_.EndHoldingTables();
  }
  ~Holdings() {
    End();
    context_.memory().GiveBack(recorded_.blocks);
    if (piece_ != nullptr) context_.memory().GiveBackPiece(piece_);
    context_.ReleaseTables(tables_);
  }
  Holdings(const Holdings&) = delete;
  Holdings& operator=(const Holdings&) = delete;

  const CachingMemory::Recorded& recorded() const { return recorded_; }

 private:
  Context& context_;
  std::byte* piece_ = nullptr;
  bool ended_ = false;
  CachingMemory::Recorded recorded_;
  std::vector<size_t> tables_;
};

class RecordedGraph final : public Graph {
 public:
  RecordedGraph(Context& context, cudaGraph_t graph, std::unique_ptr<Holdings> holdings)
      : context_(context), holdings_(std::move(holdings)) {
    Check(cudaGraphInstantiate(&executable_, graph, 0), "instantiating a graph");
  }
  ~RecordedGraph() override {
    cudaSetDevice(context_.device());
    cudaStreamSynchronize(context_.stream());
    cudaGraphExecDestroy(executable_);
  }
  void Launch() const override {
    Check(cudaSetDevice(context_.device()), "cudaSetDevice");
    Check(cudaGraphLaunch(executable_, context_.stream()), "launching a graph");
  }

 private:
  Context& context_;
  std::unique_ptr<Holdings> holdings_;
  cudaGraphExec_t executable_ = nullptr;
};

struct GraphDestroyer {
  void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
};
using OwnedGraph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, GraphDestroyer>;

// Ends what cudaStreamBeginCapture began.
OwnedGraph EndCapture(cudaStream_t stream, cudaError_t* status) {
  cudaGraph_t graph = nullptr;
  *status = cudaStreamEndCapture(stream, &graph);
  return OwnedGraph(graph);
}

OwnedGraph Capture(Context& context, const std::function<void()>& work) {
  cudaError_t status = cudaSuccess;
  // Relaxed: the work may still allocate memory.
  Check(cudaStreamBeginCapture(context.stream(), cudaStreamCaptureModeRelaxed),
        "recording a graph");
  try {
    work();
  } catch (...) {
    EndCapture(context.stream(), &status);
    cudaGetLastError();  // the work's own error is the one to report
    throw;
  }
  OwnedGraph graph = EndCapture(context.stream(), &status);
  Check(status, "recording a graph");
  return graph;
}

}  // namespace

std::unique_ptr<Graph> RecordGraph(Context& context, const std::function<void()>& work) {
  auto holdings = std::make_unique<Holdings>(context);
  OwnedGraph graph = Capture(context, work);
  holdings->End();
  const int64_t blocks = holdings->recorded().bytes;
  if (blocks > kWorthAPlan && holdings->recorded().trace.size() <= kMostPlanned) {
    std::vector<PlannedBlock> plan = holdings->recorded().trace;
    const int64_t bytes = PlanMemory(plan);
    if (bytes < blocks) {
      graph.reset();
      holdings.reset();
      holdings = std::make_unique<Holdings>(context, std::move(plan), bytes);
      graph = Capture(context, work);
      holdings->End();
    }
  }
  return std::make_unique<RecordedGraph>(context, graph.get(), std::move(holdings));
}

}  // namespace adder::cuda
