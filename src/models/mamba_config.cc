// Published sizes, and the checks every config passes before anything is built from it.
#include "adder/models/mamba_config.h"

#include <fmt/format.h>

#include <cmath>

#include "adder/core/error.h"

namespace adder {
namespace {

void CheckRange(const char* field, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is {}, expected {} to {}", field, value, least, most));
  }
}

void CheckReal(const char* field, double value, bool valid, const char* expected) {
  if (!std::isfinite(value) || !valid) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is {}, expected {}", field, value, expected));
  }
}

}  // namespace

MambaConfig MambaConfig::Published(std::string_view name) {
  struct Size {
    std::string_view name;
    int64_t d_model;
    int64_t n_layer;
  };
  constexpr Size kSizes[] = {{"130m", 768, 24},
                             {"370m", 1024, 48},
                             {"790m", 1536, 48},
                             {"1.4b", 2048, 48},
                             {"2.8b", 2560, 64}};
  for (const Size& size : kSizes) {
    if (size.name != name) continue;
    MambaConfig config;
    config.vocab_size = 50280;
    config.d_model = size.d_model;
    config.n_layer = size.n_layer;
    config.bos_token_id = 0;
    config.eos_token_id = 0;
    config.Resolve();
    return config;
  }
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("no Mamba of size \"{}\" was published, expected 130m, 370m, 790m, 1.4b "
                          "or 2.8b",
                          name));
}

void MambaConfig::Resolve() {
  CheckRange("vocab_size", vocab_size, 1, kLargestVocabulary);
  CheckRange("d_model", d_model, 1, kLargestDimension);
  CheckRange("n_layer", n_layer, 1, kMostLayers);
  CheckRange("d_state", d_state, 1, kLargestDimension);
  CheckRange("d_conv", d_conv, 2, 8);
  if (d_inner == 0) {
    CheckRange("expand", expand, 1, kLargestDimension);
    d_inner = expand * d_model;
  }
  CheckRange("d_inner", d_inner, 1, kLargestDimension);
  if (dt_rank == 0) dt_rank = (d_model + 15) / 16;
  CheckRange("dt_rank", dt_rank, 1, kLargestDimension);
  CheckReal("norm_eps", norm_eps, norm_eps >= 0 && norm_eps <= 1, "a number from 0 to 1");
  CheckReal("dt_min", dt_min, dt_min > 0, "a positive number");
  CheckReal("dt_max", dt_max, dt_max >= dt_min, "a number not below dt_min");
  CheckReal("dt_init_floor", dt_init_floor, dt_init_floor >= 0, "a number not below 0");
  CheckReal("initializer_range", initializer_range, initializer_range >= 0, "a number not below 0");
  CheckRange("bos_token_id", bos_token_id, -1, vocab_size - 1);
  CheckRange("eos_token_id", eos_token_id, -1, vocab_size - 1);
}

}  // namespace adder
