// The adder program: subcommands, the options they share, and errors as one line and an exit code.
#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>

#include "adder/backend/cpu/parallel.h"
#include "adder/cli/commands.h"
#include "adder/cli/numbers.h"
#include "adder/core/error.h"
#include "adder/core/version.h"

namespace adder {
namespace {

enum ExitCode { kDone = 0, kFailed = 1, kUsage = 2 };

// "adder: MESSAGE", on one line whatever a file name or a file's content brought into the message.
void PrintError(std::string_view message) {
  std::string line = "adder: ";
  for (const char c : message) {
    line += static_cast<unsigned char>(c) < ' ' || c == '\x7f' ? ' ' : c;
  }
  while (line.back() == ' ') line.pop_back();
  line += '\n';
  std::fwrite(line.data(), 1, line.size(), stderr);
}

// A standard descriptor that the caller closed must not be given to the first file opened: what is
// printed would land in it. It is held so that using it fails, as it would if it stayed closed.
void HoldClosedDescriptors() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(descriptor, F_GETFD) != -1 || errno != EBADF) continue;
    // The lowest free descriptor is this one.
    open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

void AddCommands(CLI::App& app) {
  // One line a command, in the order of the help.
  AddTrainCommand(app);
  AddGenerateCommand(app);
  AddEvalCommand(app);
  AddTokenizeCommand(app);
  AddTokenizerCommand(app);
  AddInspectCommand(app);
  AddConvertCommand(app);
  AddInitCommand(app);
  AddLogitsCommand(app);
  AddSelectionCommand(app);
  AddBenchCommand(app);
  AddDevicesCommand(app);
}

int Main(int argc, char** argv) {
  HoldClosedDescriptors();
  CLI::App app("Trains, evaluates, runs and explores Mamba models.", "adder");
  app.set_version_flag("--version", "adder " + std::string(Version()));
  app.set_help_flag("-h,--help", "Print this help");
  app.footer(
      "`adder COMMAND --help` explains a command. --threads goes before or after the command.\n"
      "Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted, "
      "143 terminated.");
  app.fallthrough();
  // Not CLI11's own check for none: it would hide what was wrong with a mistyped command.
  app.require_subcommand(0, 1);
  int threads = 0;
  app.add_option("--threads", threads, "Threads to compute with (default: the cores available)")
      ->transform(WholeNumber(1, 4096))
      ->type_name("N");
  app.parse_complete_callback([&] {
    if (threads > 0) cpu::SetThreadCount(threads);
  });
  AddCommands(app);

  try {
    app.parse(argc, argv);
    if (app.get_subcommands().empty()) throw UsageError("no command given (see adder --help)");
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    PrintError(std::string(error.what()) + " (see adder --help)");
    return kUsage;
  } catch (const UsageError& error) {
    PrintError(error.what());
    return kUsage;
  } catch (const Error& error) {
    PrintError(error.what());
    if (error.code() != ErrorCode::kCancelled) return kFailed;
    // As a shell reports a process that the signal ended.
    return 128 + (InterruptSignal() != 0 ? InterruptSignal() : SIGINT);
  } catch (const std::filesystem::filesystem_error& error) {
    PrintError(error.path1().string() + ": " + error.code().message());
    return kFailed;
  } catch (const std::bad_alloc&) {
    PrintError("out of memory");
    return kFailed;
  } catch (const std::exception& error) {
    PrintError(error.what());
    return kFailed;
  }
  // Results that did not reach their file are a failure.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    PrintError("standard output: cannot be written");
    return kFailed;
  }
  return kDone;
}

}  // namespace
}  // namespace adder

int main(int argc, char** argv) { return adder::Main(argc, argv); }
