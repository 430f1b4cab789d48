// Fuzzes the reading of config.json: any text gives a config that resolves and is written and read
// back the same, or an Error.
#include <cstdlib>
#include <string_view>

#include "adder/core/error.h"
#include "adder/models/checkpoint.h"
#include "adder/models/hugging_face_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const adder::ModelConfig config = adder::ParseModelConfig(
        std::string_view(reinterpret_cast<const char*>(data), size), "config.json");
    const std::string text = adder::HuggingFaceConfigJson(config, adder::DType::kF32);
    const adder::ModelConfig again = adder::ParseModelConfig(text, "config.json");
    if (adder::HuggingFaceConfigJson(again, adder::DType::kF32) != text) std::abort();
  } catch (const adder::Error&) {
  }
  return 0;
}
