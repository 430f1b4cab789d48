// One table of fields drives reading, overriding, checking, writing and the reference.
#include "adder/train/train_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <utility>
#include <variant>

#include "adder/core/error.h"
#include "adder/core/shape.h"
#include "adder/formats/file.h"

// toml++ 3.3 guards its parser by assertions that hostile text reaches ("[@]"), and with NDEBUG
// makes them promises to the optimizer. Here they are errors, in every build.
namespace {
struct BrokenTomlAssertion {};
[[noreturn]] void ThrowBrokenTomlAssertion() { throw BrokenTomlAssertion(); }
}  // namespace
#undef NDEBUG
#define TOML_ASSERT(condition) ((condition) ? static_cast<void>(0) : ThrowBrokenTomlAssertion())
#include <toml++/toml.h>

namespace adder {
namespace {

// Each kind of value: where it goes and what it may be.
struct IntegerField {
  int64_t* value;
  int64_t min;
  int64_t max;
};
struct RealField {
  double* value;
  double min;
  double max;
};
struct BoolField {
  bool* value;
};
struct TextField {
  std::string* value;
};
struct ListField {
  std::vector<std::string>* value;
};
struct ChoiceField {
  std::vector<std::string> names;
  std::function<void(size_t)> set;
  std::function<size_t()> get;
  // The names that false and true stand for; empty: for none.
  std::string when_false = {};
  std::string when_true = {};
};

struct Field {
  std::string name;
  std::variant<IntegerField, RealField, BoolField, TextField, ListField, ChoiceField> target;
  std::string meaning;
};

template <class T>
ChoiceField Choice(T* value, std::vector<std::pair<std::string, T>> choices) {
  ChoiceField field;
  std::vector<T> values;
  for (auto& [name, choice] : choices) {
    field.names.push_back(std::move(name));
    values.push_back(choice);
  }
  field.set = [value, values](size_t i) { *value = values[i]; };
  field.get = [value, values] {
    return static_cast<size_t>(std::find(values.begin(), values.end(), *value) - values.begin());
  };
  return field;
}

ChoiceField RecomputeChoice(Recompute* value) {
  ChoiceField field = Choice<Recompute>(
      value,
      {{"none", Recompute::kNone}, {"scan", Recompute::kScan}, {"block", Recompute::kBlock}});
  field.when_false = "none";
  field.when_true = "block";
  return field;
}

constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
constexpr int64_t kMaxDimension = int64_t{1} << 20;

// Every key of a config, in the order of the reference.
std::vector<Field> Fields(TrainConfig& config) {
  ModelConfig& dims = config.model.dimensions;
  auto& data = config.data;
  auto& train = config.train;
  auto& optimizer = config.optimizer;
  auto& schedule = config.schedule;
  return {
      {"model.size", TextField{&config.model.size},
       "a published size (130m, 370m, 790m, 1.4b, 2.8b) to take the dimensions from; the keys "
       "below override it; empty: none"},
      {"model.checkpoint", TextField{&config.model.checkpoint},
       "a model directory to begin from instead of random weights; the keys below then do not "
       "count; empty: none"},
      {"model.d_model", IntegerField{&dims.d_model, 1, kMaxDimension},
       "width of the residual stream"},
      {"model.n_layer", IntegerField{&dims.n_layer, 1, 4096}, "number of Mamba blocks"},
      {"model.d_state", IntegerField{&dims.d_state, 1, 1024}, "SSM states per channel"},
      {"model.d_conv", IntegerField{&dims.d_conv, 2, 8}, "width of the short convolution"},
      {"model.expand", IntegerField{&dims.expand, 1, 16}, "d_inner = expand · d_model"},
      {"model.d_inner", IntegerField{&dims.d_inner, 0, 16 * kMaxDimension},
       "channels of the SSM; 0: expand · d_model"},
      {"model.dt_rank", IntegerField{&dims.dt_rank, 0, kMaxDimension},
       "rank of the step's projection; 0: d_model / 16, rounded up"},
      {"model.use_bias", BoolField{&dims.use_bias}, "biases in in_proj and out_proj"},
      {"model.use_conv_bias", BoolField{&dims.use_conv_bias}, "a bias in the convolution"},
      {"model.tie_word_embeddings", BoolField{&dims.tie_word_embeddings},
       "the head shares the embedding's weights"},
      {"model.norm_eps", RealField{&dims.norm_eps, 1e-12, 1.0},
       "added to the mean square in RMSNorm"},
      {"model.dt_min", RealField{&dims.dt_min, 1e-9, 1e3}, "least initial step"},
      {"model.dt_max", RealField{&dims.dt_max, 1e-9, 1e3}, "greatest initial step"},
      {"model.dt_init_floor", RealField{&dims.dt_init_floor, 0.0, 1e3},
       "initial steps are not below this"},
      {"model.initializer_range", RealField{&dims.initializer_range, 0.0, 1e3},
       "standard deviation of the initial embedding"},
      {"model.rescale_prenorm_residual", BoolField{&dims.rescale_prenorm_residual},
       "divide the initial out_proj by the root of n_layer"},

      {"data.train", ListField{&data.train},
       "training text: a file, folder or pattern, or a list of them"},
      {"data.valid", ListField{&data.valid}, "validation text, likewise; empty: none"},
      {"data.valid_fraction", RealField{&data.valid_fraction, 0.0, 0.9},
       "share of the training text, at its end, held back for validation; 0: none"},
      {"data.packing",
       Choice<Packing>(&data.packing,
                       {{"windows", Packing::kWindows}, {"documents", Packing::kDocuments}}),
       "windows: stretches of text from anywhere; documents: whole documents in shuffled order"},
      {"data.separator", TextField{&data.separator},
       "text that ends a document within a file and belongs to it; empty: a file is a document"},
      {"data.tokenizer", TextField{&data.tokenizer},
       "a tokenizer.json or its directory; empty: tokens are bytes"},
      {"data.tokens", TextField{&data.tokens},
       "folder where tokenized text is kept for later runs; empty: tokens, beside the run's "
       "folder"},

      {"train.steps", IntegerField{&train.steps, 0, kAny}, "budget: optimizer steps"},
      {"train.tokens", IntegerField{&train.tokens, 0, kAny}, "budget: tokens read"},
      {"train.minutes", RealField{&train.minutes, 0.0, 1e7}, "budget: time"},
      {"train.batch", IntegerField{&train.batch, 1, int64_t{1} << 20}, "rows of text side by side"},
      {"train.length", IntegerField{&train.length, 1, int64_t{1} << 30}, "tokens of each row"},
      {"train.gradient_accumulation", IntegerField{&train.gradient_accumulation, 1, 1 << 20},
       "batches per optimizer step"},
      {"train.dtype", Choice<DType>(&train.dtype, {{"f32", DType::kF32}, {"bf16", DType::kBF16}}),
       "precision of the operators; weights and optimizer are f32 always"},
      {"train.tf32", BoolField{&train.tf32},
       "with f32 on a CUDA device: matrices are multiplied in TF32, faster and less exact"},
      {"train.seed", IntegerField{&train.seed, 0, kAny}, "of weights and data order"},
      {"train.recompute", RecomputeChoice(&train.recompute),
       "what the backward pass computes once more to save memory: none; scan: a Mamba block's norm "
       "and what lies between its large projections; block: all of each block, a third more work"},
      {"train.segment", IntegerField{&train.segment, 0, int64_t{1} << 30},
       "tokens of a batch in memory at a time, for long rows: the gradients are exact, and rows "
       "that are longer are read forward once more; 0: all at once"},
      {"train.truncated_backpropagation", BoolField{&train.truncated_backpropagation},
       "rows read on from step to step with the state carried; gradients stop at the row's start"},
      {"train.device", TextField{&train.device},
       "where to train: cpu, cuda, cuda:N, or auto, a CUDA device where there is one"},
      {"train.threads", IntegerField{&train.threads, 0, 4096}, "0: all cores"},

      {"optimizer.lr", RealField{&optimizer.lr, 0.0, 1e3}, "peak learning rate"},
      {"optimizer.beta1", RealField{&optimizer.beta1, 0.0, 0.999999}, "decay of AdamW's mean"},
      {"optimizer.beta2", RealField{&optimizer.beta2, 0.0, 0.99999999},
       "decay of AdamW's mean square"},
      {"optimizer.eps", RealField{&optimizer.eps, 1e-30, 1.0},
       "added to the root of the mean square"},
      {"optimizer.weight_decay", RealField{&optimizer.weight_decay, 0.0, 1e3},
       "decoupled; matrices only (not A_log, D, biases, norms)"},
      {"optimizer.clip", RealField{&optimizer.clip, 0.0, 1e9},
       "greatest norm of the whole gradient; 0: no limit"},

      {"schedule.kind",
       Choice<ScheduleKind>(&schedule.kind, {{"cosine", ScheduleKind::kCosine},
                                             {"constant", ScheduleKind::kConstant},
                                             {"wsd", ScheduleKind::kWsd}}),
       "after a linear warm-up: cosine decay, no decay, or stable and then a linear decay"},
      {"schedule.warmup", RealField{&schedule.warmup, 0.0, 1e9},
       "below 1: a share of the run; otherwise steps"},
      {"schedule.decay", RealField{&schedule.decay, 0.0, 1.0}, "wsd: share of the run that decays"},
      {"schedule.min_lr", RealField{&schedule.min_lr, 0.0, 1e3}, "rate at the end of the decay"},

      {"eval.every", IntegerField{&config.eval.every, 0, kAny},
       "steps between evaluations; 0: only at the end"},
      {"eval.bytes", IntegerField{&config.eval.bytes, 0, kAny},
       "length of the validation text's beginning that is read; 0: all"},

      {"checkpoint.every_steps", IntegerField{&config.checkpoint.every_steps, 0, kAny},
       "steps between checkpoints; 0: not by steps"},
      {"checkpoint.every_minutes", RealField{&config.checkpoint.every_minutes, 0.0, 1e7},
       "minutes between checkpoints; 0: not by time"},
      {"checkpoint.keep", IntegerField{&config.checkpoint.keep, 1, 1 << 20},
       "newest checkpoints kept"},

      {"output.run", TextField{&config.output.run},
       "the run's folder; empty: runs/ and the config file's name"},
      {"output.metrics_every", IntegerField{&config.output.metrics_every, 1, kAny},
       "steps between lines of metrics"},
      {"output.tensorboard", BoolField{&config.output.tensorboard}, "write TensorBoard events"},
  };
}

// A basic string of TOML, always on one line.
std::string Quote(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

// A number as TOML has it: a real always shows that it is one.
std::string RealText(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

// The parser gets ASCII alone: toml++ 3.3 has undefined behaviour for some characters outside
// strings (U+021A among them). Bytes beyond ASCII become "~xHH~" and "~" becomes "~~", which is
// undone in all that comes out of the parser. Lines stay lines.
std::string ToAscii(std::string_view text) {
  std::string ascii;
  for (const char c : text) {
    if (c == '~') {
      ascii += "~~";
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      ascii += fmt::format("~x{:02x}~", static_cast<unsigned char>(c));
    } else {
      ascii += c;
    }
  }
  return ascii;
}

std::string FromAscii(std::string_view ascii) {
  std::string text;
  while (!ascii.empty()) {
    unsigned byte = 0;
    const char* digits = ascii.data() + 2;
    if (ascii.starts_with("~~")) {
      text += '~';
      ascii.remove_prefix(2);
    } else if (ascii.size() >= 5 && ascii.starts_with("~x") && ascii[4] == '~' &&
               std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2) {
      text += static_cast<char>(byte);
      ascii.remove_prefix(5);
    } else {
      text += ascii[0];
      ascii.remove_prefix(1);
    }
  }
  return text;
}

// Short, and never rounded.
std::string BoundText(double value) {
  const std::string text = fmt::format("{:g}", value);
  return std::strtod(text.c_str(), nullptr) == value ? text : fmt::format("{}", value);
}

std::string Expected(const Field& field) {
  struct Visitor {
    std::string operator()(const IntegerField& f) const {
      return f.max == kAny ? fmt::format("a whole number from {}", f.min)
                           : fmt::format("a whole number from {} to {}", f.min, f.max);
    }
    std::string operator()(const RealField& f) const {
      return fmt::format("a number from {} to {}", BoundText(f.min), BoundText(f.max));
    }
    std::string operator()(const BoolField&) const { return "true or false"; }
    std::string operator()(const TextField&) const { return "a string"; }
    std::string operator()(const ListField&) const { return "a string or a list of strings"; }
    std::string operator()(const ChoiceField& f) const {
      return fmt::format("\"{}\"", fmt::join(f.names, "\" or \""));
    }
  };
  return std::visit(Visitor{}, field.target);
}

std::string ValueText(const Field& field) {
  struct Visitor {
    std::string operator()(const IntegerField& f) const { return fmt::format("{}", *f.value); }
    std::string operator()(const RealField& f) const { return RealText(*f.value); }
    std::string operator()(const BoolField& f) const { return *f.value ? "true" : "false"; }
    std::string operator()(const TextField& f) const { return Quote(*f.value); }
    std::string operator()(const ListField& f) const {
      std::vector<std::string> quoted;
      for (const std::string& text : *f.value) quoted.push_back(Quote(text));
      return fmt::format("[{}]", fmt::join(quoted, ", "));
    }
    std::string operator()(const ChoiceField& f) const { return Quote(f.names[f.get()]); }
  };
  return std::visit(Visitor{}, field.target);
}

// Sets the field. False when the node has another type or lies out of range.
bool Assign(const Field& field, const toml::node& node) {
  struct Visitor {
    const toml::node& node;

    bool operator()(const IntegerField& f) const {
      std::optional<int64_t> value;
      if (node.is_integer()) {
        value = node.as_integer()->get();
      } else if (node.is_floating_point()) {
        // 1e9 is a whole number too.
        const double real = node.as_floating_point()->get();
        if (std::abs(real) <= 0x1p53 && real == std::floor(real)) {
          value = static_cast<int64_t>(real);
        }
      }
      if (!value || *value < f.min || *value > f.max) return false;
      *f.value = *value;
      return true;
    }
    bool operator()(const RealField& f) const {
      double value = std::numeric_limits<double>::quiet_NaN();
      if (node.is_integer()) value = static_cast<double>(node.as_integer()->get());
      if (node.is_floating_point()) value = node.as_floating_point()->get();
      if (!(value >= f.min && value <= f.max)) return false;
      *f.value = value;
      return true;
    }
    bool operator()(const BoolField& f) const {
      if (!node.is_boolean()) return false;
      *f.value = node.as_boolean()->get();
      return true;
    }
    bool operator()(const TextField& f) const {
      if (!node.is_string()) return false;
      *f.value = FromAscii(node.as_string()->get());
      return true;
    }
    bool operator()(const ListField& f) const {
      std::vector<std::string> values;
      if (node.is_string()) {
        values.push_back(FromAscii(node.as_string()->get()));
      } else if (node.is_array()) {
        for (const toml::node& element : *node.as_array()) {
          if (!element.is_string()) return false;
          values.push_back(FromAscii(element.as_string()->get()));
        }
      } else {
        return false;
      }
      *f.value = std::move(values);
      return true;
    }
    bool operator()(const ChoiceField& f) const {
      std::string name;
      if (node.is_boolean()) {
        name = node.as_boolean()->get() ? f.when_true : f.when_false;
      } else if (node.is_string()) {
        name = node.as_string()->get();
      }
      const auto found = std::find(f.names.begin(), f.names.end(), name);
      if (found == f.names.end()) return false;
      f.set(static_cast<size_t>(found - f.names.begin()));
      return true;
    }
  };
  return std::visit(Visitor{node}, field.target);
}

// What stands in the config, short and on one line.
std::string NodeText(const toml::node& node) {
  constexpr size_t kMost = 60;
  if (const auto* text = node.as_string()) {
    const std::string quoted = Quote(FromAscii(text->get()));
    return quoted.size() > kMost ? quoted.substr(0, kMost) + "…" : quoted;
  }
  std::ostringstream out;
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::integer:
      out << *node.as_integer();
      break;
    case toml::node_type::floating_point:
      out << *node.as_floating_point();
      break;
    case toml::node_type::boolean:
      out << *node.as_boolean();
      break;
    default:
      return "a date or time";
  }
  return out.str();
}

// Where a value stands, as messages name it, and whose mistake it is when it is wrong: the file's
// or the caller's.
struct Place {
  std::string name;
  ErrorCode code;
};
Place InFile(std::string name) { return {std::move(name), ErrorCode::kCorrupt}; }
Place InOverride(std::string_view text) {
  return {fmt::format("--set {}", text), ErrorCode::kInvalidArgument};
}

[[noreturn]] void Fail(const Place& where, const std::string& message) {
  throw Error(where.code, fmt::format("{}: {}", where.name, message));
}

// Edits (insertions, deletions, changes) between two words.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
    }
  }
  return row[b.size()];
}

// " (did you mean optimizer.lr?)", or nothing when no key is near.
std::string Suggestion(const std::vector<Field>& fields, std::string_view name) {
  if (name.size() > 100) return "";
  const std::string_view key = name.substr(name.rfind('.') + 1);
  std::string best;
  size_t best_distance = 1 + std::max<size_t>(1, key.size() / 3);
  for (const Field& field : fields) {
    const std::string_view other = std::string_view(field.name).substr(field.name.find('.') + 1);
    const size_t distance = std::min(EditDistance(key, other), EditDistance(name, field.name));
    if (distance < best_distance) best = field.name, best_distance = distance;
  }
  return best.empty() ? "" : fmt::format(" (did you mean {}?)", best);
}

// The values of a document and their places, by full name.
struct Setting {
  const toml::node* node;
  Place where;
};
using Settings = std::map<std::string, Setting>;

toml::table ParseToml(std::string_view text, const std::string& source) {
  try {
    return toml::parse(ToAscii(text));
  } catch (const toml::parse_error& error) {
    Fail(InFile(fmt::format("{}:{}", source, error.source().begin.line)),
         fmt::format("no valid TOML: {}", FromAscii(error.description())));
  } catch (const BrokenTomlAssertion&) {
    Fail(InFile(source), "no valid TOML");
  }
}

void Collect(const toml::table& document, const std::string& source,
             const std::vector<Field>& fields, Settings* settings) {
  const auto place = [&](const toml::node& node) {
    return InFile(fmt::format("{}:{}", source, node.source().begin.line));
  };
  const auto is_known = [&](const std::string& name, bool section) {
    return std::any_of(fields.begin(), fields.end(), [&](const Field& field) {
      return section ? field.name.starts_with(name + ".") : field.name == name;
    });
  };
  for (const auto& [section_key, section] : document) {
    const std::string section_name = FromAscii(section_key.str());
    if (!is_known(section_name, true)) {
      Fail(place(section), fmt::format("unknown {} {}{}", section.is_table() ? "section" : "key",
                                       Quote(section_name), Suggestion(fields, section_name)));
    }
    if (!section.is_table()) {
      Fail(place(section), fmt::format("{} is {}, expected a section [{}]", section_name,
                                       NodeText(section), section_name));
    }
    for (const auto& [key, node] : *section.as_table()) {
      const std::string name = section_name + "." + FromAscii(key.str());
      if (!is_known(name, false)) {
        Fail(place(node), fmt::format("unknown key {}{}", Quote(name), Suggestion(fields, name)));
      }
      (*settings)[name] = {&node, place(node)};
    }
  }
}

bool TakesText(const Field& field) {
  return std::holds_alternative<TextField>(field.target) ||
         std::holds_alternative<ListField>(field.target) ||
         std::holds_alternative<ChoiceField>(field.target);
}

bool IsBudget(std::string_view name) {
  return name == "train.steps" || name == "train.tokens" || name == "train.minutes";
}

// Checks across keys; `where` finds the place of a key.
void CheckSense(const TrainConfig& config, const std::string& source,
                const std::function<Place(const std::string&)>& where) {
  const int budgets =
      (config.train.steps > 0) + (config.train.tokens > 0) + (config.train.minutes > 0.0);
  if (budgets != 1) {
    Fail(InFile(source), fmt::format("{} of train.steps, train.tokens and train.minutes are given, "
                                     "expected exactly one",
                                     budgets));
  }
  if (config.data.train.empty()) {
    Fail(where("data.train"), "data.train is empty, expected files to train on");
  }
  for (const auto& [name, patterns] :
       {std::pair("data.train", &config.data.train), std::pair("data.valid", &config.data.valid)}) {
    if (std::find(patterns->begin(), patterns->end(), "") != patterns->end()) {
      Fail(where(name), fmt::format("{} has an empty string, expected names of files", name));
    }
  }
  if (!config.data.valid.empty() && config.data.valid_fraction > 0.0) {
    Fail(where("data.valid_fraction"),
         "data.valid_fraction and data.valid are both given, expected one of them");
  }
  if (config.optimizer.lr < config.schedule.min_lr &&
      config.schedule.kind != ScheduleKind::kConstant) {
    Fail(where("schedule.min_lr"),
         fmt::format("schedule.min_lr is {}, expected at most optimizer.lr, {}",
                     config.schedule.min_lr, config.optimizer.lr));
  }
  if (config.train.tf32 && config.train.dtype != DType::kF32) {
    Fail(where("train.tf32"),
         fmt::format("train.tf32 is a way to multiply f32, but train.dtype is \"{}\"",
                     DTypeName(config.train.dtype)));
  }
  const double warmup_share = config.schedule.warmup < 1.0 ? config.schedule.warmup : 0.0;
  if (config.schedule.kind == ScheduleKind::kWsd && warmup_share + config.schedule.decay > 1.0) {
    Fail(where("schedule.decay"), "schedule.warmup and schedule.decay together exceed the run");
  }
  if (config.model.dimensions.dt_min > config.model.dimensions.dt_max) {
    Fail(where("model.dt_min"),
         fmt::format("model.dt_min is {}, expected at most model.dt_max, {}",
                     config.model.dimensions.dt_min, config.model.dimensions.dt_max));
  }
  try {
    CheckedProduct(CheckedProduct(config.train.batch, config.train.length, "a batch"),
                   config.train.gradient_accumulation, "a step's tokens");
  } catch (const Error& error) {
    Fail(where("train.batch"), error.what());
  }
}

}  // namespace

TrainConfig ParseTrainConfig(std::string_view toml, std::string_view source_name,
                             std::span<const std::string> overrides) {
  const std::string source(source_name);
  TrainConfig config;
  const std::vector<Field> fields = Fields(config);
  Settings settings;
  const toml::table document = ParseToml(toml, source);
  Collect(document, source, fields, &settings);

  // Overrides are one-key documents. Where the key is one of text, a value that is none is text
  // without its quotes, as in output.run=2024.
  std::vector<toml::table> override_documents;
  override_documents.reserve(overrides.size());
  std::set<std::string> set_budgets;
  for (const std::string& text : overrides) {
    const Place where = InOverride(text);
    const size_t equals = text.find('=');
    if (equals == std::string::npos) Fail(where, "expected section.key=value");
    const std::string name = text.substr(0, equals);
    const std::string value = text.substr(equals + 1);
    const auto field =
        std::find_if(fields.begin(), fields.end(), [&](const Field& f) { return f.name == name; });
    if (field == fields.end()) {
      Fail(where, fmt::format("unknown key {}{}", Quote(name), Suggestion(fields, name)));
    }
    toml::table parsed;
    try {
      parsed = ParseToml("value = " + value, where.name);
    } catch (const Error&) {
      parsed.clear();
    }
    const toml::node* node = parsed.size() == 1 ? parsed.get("value") : nullptr;
    const bool is_text = node != nullptr && (node->is_string() || node->is_array());
    if (node == nullptr || (!is_text && TakesText(*field))) {
      if (value.find('\\') != std::string::npos) {
        Fail(where,
             "text with a backslash needs TOML's quotes: \"\\n\" is a line's end, '\\n' a "
             "backslash and an n (and the shell needs quotes around both)");
      }
      parsed.clear();
      parsed.insert("value", ToAscii(value));
    }
    override_documents.push_back(std::move(parsed));
    settings[name] = {override_documents.back().get("value"), where};
    if (IsBudget(name)) set_budgets.insert(name);
  }
  if (!set_budgets.empty()) {
    std::erase_if(settings, [&](const auto& setting) {
      return IsBudget(setting.first) && !set_budgets.contains(setting.first);
    });
  }

  const auto where = [&](const std::string& name) {
    const auto found = settings.find(name);
    return found == settings.end() ? InFile(source) : found->second.where;
  };
  const auto assign = [&](const Field& field) {
    const auto found = settings.find(field.name);
    if (found == settings.end()) return;
    if (!Assign(field, *found->second.node)) {
      Fail(found->second.where, fmt::format("{} is {}, expected {}", field.name,
                                            NodeText(*found->second.node), Expected(field)));
    }
  };
  // The size first: the other fields override it.
  assign(fields.front());
  if (!config.model.size.empty()) {
    try {
      config.model.dimensions = ModelConfig::Published(config.model.size);
    } catch (const Error& error) {
      Fail(where("model.size"), error.what());
    }
    config.model.dimensions.vocab_size = 256;
    config.model.dimensions.bos_token_id = config.model.dimensions.eos_token_id = -1;
  }
  for (const Field& field : fields) assign(field);
  CheckSense(config, source, where);
  return config;
}

TrainConfig ReadTrainConfig(const std::filesystem::path& path,
                            std::span<const std::string> overrides) {
  constexpr size_t kMostBytes = 1 << 20;
  return ParseTrainConfig(ReadFile(path, kMostBytes), path.string(), overrides);
}

std::string TrainConfigToToml(const TrainConfig& config) {
  TrainConfig copy = config;
  std::string text;
  std::string section;
  for (const Field& field : Fields(copy)) {
    const size_t dot = field.name.find('.');
    if (field.name.substr(0, dot) != section) {
      text += fmt::format("{}[{}]\n", section.empty() ? "" : "\n", field.name.substr(0, dot));
      section = field.name.substr(0, dot);
    }
    text += fmt::format("{} = {}\n", field.name.substr(dot + 1), ValueText(field));
  }
  return text;
}

std::vector<TrainConfigKey> TrainConfigKeys() {
  TrainConfig defaults;
  std::vector<TrainConfigKey> keys;
  for (const Field& field : Fields(defaults)) {
    keys.push_back({field.name, ValueText(field), Expected(field), field.meaning});
  }
  return keys;
}

}  // namespace adder
