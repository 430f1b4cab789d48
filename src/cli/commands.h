// The subcommands of `adder`, one file each. A command adds itself, its options and its callback to
// the app; the callback does the work and throws what goes wrong: main.cc prints it as one line and
// turns it into the exit code.
//
// Exit codes: 0 done; 1 it failed; 2 the command line is wrong; 130 interrupted, 143 terminated
// (kCancelled).
#pragma once

#include <CLI/CLI.hpp>
#include <atomic>
#include <string>

#include "adder/core/error.h"

namespace adder {

void AddTrainCommand(CLI::App& app);
void AddGenerateCommand(CLI::App& app);
void AddEvalCommand(CLI::App& app);
void AddBenchCommand(CLI::App& app);
void AddTokenizeCommand(CLI::App& app);
void AddTokenizerCommand(CLI::App& app);
void AddInitCommand(CLI::App& app);
void AddInspectCommand(CLI::App& app);
void AddLogitsCommand(CLI::App& app);
void AddConvertCommand(CLI::App& app);
void AddSelectionCommand(CLI::App& app);
void AddDevicesCommand(CLI::App& app);

// Flags that contradict each other or that no option validator can check: exit code 2.
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(ErrorCode::kInvalidArgument, message) {}
};

// Calls use(), which takes a value from the command line: what it does not accept is a wrong
// command line.
template <class Use>
auto FromCommandLine(Use&& use) {
  try {
    return use();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidArgument) throw;
    throw UsageError(error.what());
  }
}

// From this call on SIGINT and SIGTERM do not end the process but set the flag returned, for jobs
// that can stop cleanly. A second signal ends the process as usual.
const std::atomic<bool>& CatchInterrupts();
// The signal that set the flag, or 0.
int InterruptSignal();

}  // namespace adder
