// libFuzzer target: any bytes are a config or one Error; a config reads back from what it writes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "adder/core/error.h"
#include "adder/train/train_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const std::string written =
        adder::TrainConfigToToml(adder::ParseTrainConfig(text, "fuzz.toml"));
    if (adder::TrainConfigToToml(adder::ParseTrainConfig(written, "written.toml")) != written) {
      std::abort();
    }
  } catch (const adder::Error& error) {
    if (error.code() != adder::ErrorCode::kCorrupt) std::abort();
  }
  return 0;
}
