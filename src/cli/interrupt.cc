// SIGINT and SIGTERM as a flag that long jobs look at.
#include <csignal>

#include "adder/cli/commands.h"

namespace adder {
namespace {

// A signal handler can reach nothing but an object of static life.
std::atomic<bool> interrupted = false;
// Which signal it was.
volatile std::sig_atomic_t signal_number = 0;
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

const std::atomic<bool>& CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = [](int number) {
    signal_number = number;
    interrupted.store(true);
  };
  sigemptyset(&action.sa_mask);
  // A write that waits for its reader goes on: the job stops cleanly only when what it has printed
  // is out. Who does not want to wait sends the signal again.
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  return interrupted;
}

int InterruptSignal() { return signal_number; }

}  // namespace adder
