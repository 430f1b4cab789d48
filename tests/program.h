// The program as a child process: for tests of what it prints and where it exits.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace adder::test {

struct Finished {
  int exit_code = -1;  // 128 + the signal where one ended it
  std::string out;
  std::string err;
};

inline std::string Slurp(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class Program {
 public:
  // Starts `adder ARGUMENTS…` in the directory, with `input` as its standard input. `before` runs
  // in the new process just before the program, which may find other descriptors then.
  Program(const std::filesystem::path& directory, const std::vector<std::string>& arguments,
          const std::string& input = "", const std::function<void()>& before = {})
      : directory_(directory) {
    std::ofstream(directory / ".stdin", std::ios::binary) << input;
    pid_ = fork();
    if (pid_ != 0) return;
    if (chdir(directory.c_str()) != 0) _exit(126);
    Redirect(".stdin", O_RDONLY, STDIN_FILENO);
    Redirect(".stdout", O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
    Redirect(".stderr", O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
    setenv("ADDER_LOG", "warning", 1);
    // On the CPU on every machine.
    setenv("ADDER_CUDA_MODULE", "/no/such/libadder_cuda.so", 1);
    const std::string program = ADDER_BINARY_DIR "/adder";
    std::vector<char*> argv = {const_cast<char*>(program.c_str())};
    for (const std::string& argument : arguments) {
      argv.push_back(const_cast<char*>(argument.c_str()));
    }
    argv.push_back(nullptr);
    if (before) before();
    execv(program.c_str(), argv.data());
    _exit(127);
  }

  void Signal(int signal) const { kill(pid_, signal); }
  pid_t pid() const { return pid_; }
  // Bytes printed so far.
  size_t OutputSize() const {
    std::error_code ignored;
    const auto size = std::filesystem::file_size(directory_ / ".stdout", ignored);
    return ignored ? 0 : size;
  }
  std::string OutputSoFar() const { return Slurp(directory_ / ".stdout"); }

  Finished Wait() const {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    Finished finished;
    finished.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    finished.out = OutputSoFar();
    finished.err = Slurp(directory_ / ".stderr");
    for (const char* name : {".stdin", ".stdout", ".stderr"})
      std::filesystem::remove(directory_ / name);
    return finished;
  }

 private:
  static void Redirect(const char* file, int flags, int to) {
    const int descriptor = open(file, flags, 0600);
    if (descriptor < 0 || dup2(descriptor, to) < 0) _exit(126);
  }

  std::filesystem::path directory_;
  pid_t pid_;
};

}  // namespace adder::test
