// Fuzzes PyTorch checkpoints: as a whole file, and as the pickle in a file with one storage. Every
// element of a tensor that is accepted must lie in the file or in memory of its own.
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>

#include "adder/core/error.h"
#include "adder/formats/torch_checkpoint.h"
#include "adder/formats/zip_archive_test.h"

namespace {

void Parse(const std::string& content) {
  // Memory of its own, exactly as large: what lies outside is seen.
  const auto owner = std::make_shared<std::string>(content);
  try {
    const auto file = adder::TorchCheckpoint::Parse(
        std::as_writable_bytes(std::span(owner->data(), owner->size())), owner, "fuzz");
    for (const auto& [name, tensor] : file.tensors()) tensor.Clone();
  } catch (const adder::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  Parse(input);
  Parse(adder::test::ZipOf({{"a/data.pkl", input}, {"a/data/0", std::string(64, '\1')}}));
  return 0;
}
