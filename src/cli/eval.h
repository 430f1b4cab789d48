// What the subcommands of `adder eval` share.
#pragma once

#include <CLI/CLI.hpp>

#include "adder/formats/json.h"

namespace adder {

void AddEvalTasks(CLI::App& eval);

// A number as JSON, which has no infinity: null then.
JsonValue FiniteOrNull(double number);

}  // namespace adder
