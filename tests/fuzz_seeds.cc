// Runs a fuzz target (*_fuzz.cc) over the empty input and the seeds of a folder, without a fuzzer:
// what the target checks is checked by the ordinary tests too.
// usage: NAME_fuzz_seeds FOLDER      a target without seeds has no such folder
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void RunOne(const std::string& name, const std::string& bytes) {
  std::fprintf(stderr, "%s\n", name.c_str());  // where it stops
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  RunOne("the empty input", "");
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1], none)) {
    std::ifstream file(entry.path(), std::ios::binary);
    RunOne(entry.path().string(), std::string(std::istreambuf_iterator<char>(file), {}));
  }
  return 0;
}
