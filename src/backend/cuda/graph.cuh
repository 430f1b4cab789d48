// Recorded work: what module.h's Module::Record returns.
#pragma once

#include <functional>
#include <memory>

#include "adder/backend/cuda/module.h"
#include "adder/backend/cuda/runtime.cuh"

namespace adder::cuda {

// Context: of the device whose work is recorded.
std::unique_ptr<Graph> RecordGraph(Context& context, const std::function<void()>& work);

}  // namespace adder::cuda
