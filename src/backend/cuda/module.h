// The CUDA module: a shared library, libadder_cuda.so, that is loaded when a CUDA device is first
// asked for. It holds everything that needs CUDA, so that libadder and the adder program need none.
// This is the interface between the two, and the loader.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "adder/core/device_memory.h"

namespace adder {
struct CudaOperators;  // src/ops/cuda_operators.h
}

namespace adder::cuda {

struct DeviceInfo {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
  int64_t l2_bytes = 0;
  std::string unusable;  // why the module cannot compute on it; empty: it can
};

// Bytes of one device's memory that this process took.
struct MemoryUse {
  int64_t in_use = 0;       // by tensors and scratch memory
  int64_t most_in_use = 0;  // the highest in_use so far
  int64_t cached = 0;       // freed, kept for the next allocation of that size
};

// Versions of the driver and of the CUDA runtime in the module, as 1000 · major + 10 · minor.
struct Versions {
  int driver = 0;
  int runtime = 0;
};

// Work of a device that was recorded, to be asked for again and again at the cost of one call.
class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  // Waits until the device has done it.
  virtual ~Graph() = default;

  // Asks the device for the work once more, on what its tensors hold then.
  virtual void Launch() const = 0;
};

// What the module implements. Every function throws adder::Error.
class Module {
 public:
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // All devices, in the driver's order, without using any. Throws kUnsupported where there is no
  // driver or no device.
  virtual std::vector<DeviceInfo> Devices() const = 0;
  // Bytes of the device's memory that nobody has taken.
  virtual int64_t FreeBytes(int device) const = 0;
  virtual Versions versions() const = 0;
  virtual DeviceMemory& Memory(int device) const = 0;
  virtual MemoryUse Use(int device) const = 0;
  // Gives cached blocks back to the driver and forgets the peak.
  virtual void ReleaseCached(int device) const = 0;
  // Returns when all work asked of the device is done. Throws kInvalidArgument where that met
  // contents that it could not compute with (a token outside the vocabulary); so does copying from
  // the device to the host.
  virtual void Synchronize(int device) const = 0;
  // Whether products of f32 matrices may round their factors to TF32; see adder::AllowTf32.
  virtual void AllowTf32(int device, bool allow) const = 0;
  // Seconds that the device takes for what `work` asks of it, by the device's own clock.
  virtual double SecondsOf(int device, const std::function<void()>& work) const = 0;
  // Records what `work` asks of the device, which does nothing of it yet. The same work must have
  // been done once just before, so that all that is made when first needed is there. Every launch
  // uses the memory that the recorded work used: tensors made before or within `work` that are read
  // or written outside of it must outlive the graph; what was freed within it stays the graph's.
  // `work` must not copy from or to the host, nor wait for the device, and nobody else may ask
  // anything of the device meanwhile. Work that takes much memory is called twice, to plan that.
  virtual std::unique_ptr<Graph> Record(int device, const std::function<void()>& work) const = 0;
  // The device's work queue, a cudaStream_t.
  virtual void* Stream(int device) const = 0;
  virtual const CudaOperators& operators() const = 0;

 protected:
  ~Module() = default;
};

// What the module exports under kModuleSymbol: `const ModuleHeader* symbol()`. Library and module
// are of one release and agree on the interface; the loader checks both.
struct ModuleHeader {
  const char* version;    // adder::Version() of the module
  size_t operators_size;  // sizeof(CudaOperators)
  const Module* module;
};
inline constexpr const char* kModuleSymbol = "adder_cuda_module";

// The module, loaded once. Looked for beside the program, in ../lib/adder of it (or what
// CMAKE_INSTALL_LIBDIR names), in the folder that Adder was configured to be installed to, and
// where the system looks for libraries; the environment variable ADDER_CUDA_MODULE names a file
// instead. Throws kUnsupported, saying what was tried, where there is none.
const Module& GetModule();

}  // namespace adder::cuda
