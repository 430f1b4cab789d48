// Errors in what tensors hold (a token outside the vocabulary), which kernels meet and the host
// hears of later: a kernel raises a fault and goes on without the bad element; the next time the
// host waits for the device (Synchronize, CopyToHost), it throws. Nothing waits for the sake of it.
//
//     const Fault fault = context.faults().Of("embedding: a token is outside the vocabulary of 7");
//     kernel<<<...>>>(..., fault);    // if (bad) fault.Raise();
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace adder::cuda {

// What a kernel takes: where to say so, and the number of the message.
struct Fault {
  volatile uint32_t* word;
  uint32_t number;

  // The first fault of a stream stays; threads of one kernel all write the same.
  __device__ void Raise() const {
    if (*word == 0) *word = number;
  }
};

// The faults of one device.
class Faults {
 public:
  Faults();  // on the current device
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;

  // The fault with this message. The same message gives the same fault, which holds for good.
  Fault Of(std::string_view message);
  // Once the device is done with what was asked of it: throws kInvalidArgument with the message of
  // the fault that was raised, if any, and forgets it.
  void Throw();

 private:
  volatile uint32_t* word_ = nullptr;  // pinned memory of the host; 0: no fault
  std::mutex mutex_;
  std::vector<std::string> messages_;  // of fault i + 1
};

}  // namespace adder::cuda
