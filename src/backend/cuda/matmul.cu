// cuBLASLt counts columns first: a matrix of rows is its transpose there, so that y = a · b is
// asked for as yᵀ = bᵀ · aᵀ.
#include <cublasLt.h>
#include <dlfcn.h>

#include <array>
#include <map>
#include <memory>
#include <string>

#include "adder/backend/cuda/matmul.cuh"
#include "adder/core/error.h"

namespace adder::cuda {
namespace {

constexpr size_t kWorkspace = size_t{32} << 20;  // what NVIDIA advises for Hopper
constexpr size_t kMostPlans = 4096;

// The functions that are used, found by name.
struct Library {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtGetStatusString) status_string;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmul) matmul;

  Library();
};

void* Open() {
  const std::string name = "libcublasLt.so." + std::to_string(CUDART_VERSION / 1000);
  std::string tried;
  for (const std::string& path : {name, "/usr/local/cuda/lib64/" + name,
                                  "/usr/local/cuda/targets/x86_64-linux/lib/" + name}) {
    if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); handle != nullptr) {
      return handle;
    }
    const char* reason = dlerror();
    if (tried.empty() && reason != nullptr) tried = reason;
  }
  throw Error(ErrorCode::kUnsupported, "CUDA: products of matrices need cuBLASLt: " + tried);
}

Library::Library() {
  void* handle = Open();
  const auto find = [&](auto& function, const char* name) {
    void* symbol = dlsym(handle, name);
    if (symbol == nullptr) {
      throw Error(ErrorCode::kUnsupported, std::string("CUDA: cuBLASLt has no ") + name);
    }
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
  find(create, "cublasLtCreate");
  find(status_string, "cublasLtGetStatusString");
  find(desc_create, "cublasLtMatmulDescCreate");
  find(desc_set, "cublasLtMatmulDescSetAttribute");
  find(desc_destroy, "cublasLtMatmulDescDestroy");
  find(layout_create, "cublasLtMatrixLayoutCreate");
  find(layout_destroy, "cublasLtMatrixLayoutDestroy");
  find(preference_create, "cublasLtMatmulPreferenceCreate");
  find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
  find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
  find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(matmul, "cublasLtMatmul");
}

const Library& TheLibrary() {
  static const Library library;
  return library;
}

void CheckStatus(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(ErrorCode::kUnsupported,
              std::string("CUDA: cuBLASLt: ") + what + ": " + TheLibrary().status_string(status));
}

cudaDataType_t TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    default:
      return CUDA_R_32F;
  }
}

struct DescDestroyer {
  void operator()(cublasLtMatmulDesc_t desc) const { TheLibrary().desc_destroy(desc); }
};
struct LayoutDestroyer {
  void operator()(cublasLtMatrixLayout_t layout) const { TheLibrary().layout_destroy(layout); }
};
struct PreferenceDestroyer {
  void operator()(cublasLtMatmulPreference_t preference) const {
    TheLibrary().preference_destroy(preference);
  }
};
using Desc = std::unique_ptr<std::remove_pointer_t<cublasLtMatmulDesc_t>, DescDestroyer>;
using Layout = std::unique_ptr<std::remove_pointer_t<cublasLtMatrixLayout_t>, LayoutDestroyer>;
using Preference =
    std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, PreferenceDestroyer>;

// The largest power of two, up to 16, that divides the address and the rows' distance, in bytes.
int64_t AlignmentOf(const Rows& rows) {
  const int64_t size = rows.dtype == DType::kF32 ? 4 : 2;
  int64_t alignment = 16;
  while (reinterpret_cast<uintptr_t>(rows.data) % static_cast<uintptr_t>(alignment) != 0 ||
         rows.stride * size % alignment != 0) {
    alignment /= 2;
  }
  return alignment;
}

// All that the choice of an algorithm depends on.
using Key = std::array<int64_t, 14>;
Key KeyOf(const MatMulArguments& p, bool tf32) {
  return {p.m,
          p.n,
          p.k,
          p.a.stride,
          p.b.stride,
          p.y.stride,
          static_cast<int64_t>(p.a.dtype),
          static_cast<int64_t>(p.y.dtype),
          p.a_transposed,
          p.b_transposed,
          AlignmentOf(p.a),
          AlignmentOf(p.b),
          AlignmentOf(p.y),
          tf32};
}

Layout MakeLayout(const Rows& rows, int64_t count, int64_t columns) {
  cublasLtMatrixLayout_t layout = nullptr;
  CheckStatus(
      TheLibrary().layout_create(&layout, TypeOf(rows.dtype), static_cast<uint64_t>(columns),
                                 static_cast<uint64_t>(count), rows.stride),
      "a matrix's layout");
  return Layout(layout);
}

struct Multiplication {
  Desc desc;
  Layout a, b, y;
  cublasLtMatmulAlgo_t algorithm;
};

Multiplication MakeMultiplication(cublasLtHandle_t handle, const MatMulArguments& p, bool tf32) {
  const Library& library = TheLibrary();
  Multiplication made;
  cublasLtMatmulDesc_t desc = nullptr;
  const cublasComputeType_t compute = tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  CheckStatus(library.desc_create(&desc, compute, CUDA_R_32F), "a product");
  made.desc.reset(desc);
  const auto transpose = [&](cublasLtMatmulDescAttributes_t which, bool transposed) {
    const cublasOperation_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    CheckStatus(library.desc_set(desc, which, &operation, sizeof operation), "a transpose");
  };
  transpose(CUBLASLT_MATMUL_DESC_TRANSA, p.b_transposed);
  transpose(CUBLASLT_MATMUL_DESC_TRANSB, p.a_transposed);
  made.a = p.a_transposed ? MakeLayout(p.a, p.k, p.m) : MakeLayout(p.a, p.m, p.k);
  made.b = p.b_transposed ? MakeLayout(p.b, p.n, p.k) : MakeLayout(p.b, p.k, p.n);
  made.y = MakeLayout(p.y, p.m, p.n);

  cublasLtMatmulPreference_t preference = nullptr;
  CheckStatus(library.preference_create(&preference), "a preference");
  const Preference owner(preference);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
    CheckStatus(library.preference_set(preference, which, &value, sizeof value), "a preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  // Parts of a sum meet in the workspace and are added in order, or there is one part.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(AlignmentOf(p.b)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(AlignmentOf(p.a)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(AlignmentOf(p.y)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(AlignmentOf(p.y)));
  cublasLtMatmulHeuristicResult_t result = {};
  int found = 0;
  CheckStatus(library.heuristic(handle, desc, made.b.get(), made.a.get(), made.y.get(),
                                made.y.get(), preference, 1, &result, &found),
              "the choice of an algorithm");
  if (found == 0) CheckStatus(CUBLAS_STATUS_NOT_SUPPORTED, "the choice of an algorithm");
  made.algorithm = result.algo;
  return made;
}

// A device's handle and the products asked for so far.
class Multiplier {
 public:
  Multiplier() { CheckStatus(TheLibrary().create(&handle_), "its handle"); }

  void Multiply(Context& context, const MatMulArguments& p) {
    const std::lock_guard lock(mutex_);
    const bool tf32 = context.tf32() && p.a.dtype == DType::kF32;
    const Key key = KeyOf(p, tf32);
    auto found = made_.find(key);
    if (found == made_.end()) {
      if (made_.size() >= kMostPlans) made_.clear();  // shapes that do not come back
      found = made_.emplace(key, MakeMultiplication(handle_, p, tf32)).first;
    }
    const Multiplication& product = found->second;
    const Scratch workspace(context, kWorkspace);
    const float one = 1;
    const float beta = p.accumulate ? 1.0f : 0.0f;
    CheckStatus(TheLibrary().matmul(handle_, product.desc.get(), &one, p.b.data, product.b.get(),
                                    p.a.data, product.a.get(), &beta, p.y.data, product.y.get(),
                                    p.y.data, product.y.get(), &product.algorithm,
                                    workspace.data<void>(), kWorkspace, context.stream()),
                "a product");
  }

 private:
  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;
  std::map<Key, Multiplication> made_;
};

// Never destroyed: the driver may be gone when static objects are.
Multiplier& MultiplierOf(int device) {
  static std::mutex mutex;
  static auto& multipliers = *new std::map<int, std::unique_ptr<Multiplier>>;
  const std::lock_guard lock(mutex);
  auto& multiplier = multipliers[device];
  if (multiplier == nullptr) multiplier = std::make_unique<Multiplier>();
  return *multiplier;
}

}  // namespace

void MatMul(Context& context, const MatMulArguments& p) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    if (p.accumulate) return;
    const int64_t size = p.y.dtype == DType::kF32 ? 4 : 2;
    Check(cudaMemset2DAsync(p.y.data, static_cast<size_t>(p.y.stride * size), 0,
                            static_cast<size_t>(p.n * size), static_cast<size_t>(p.m),
                            context.stream()),
          "an empty product");
    return;
  }
  // A single row's distance to the next means nothing, but must not be less than its length.
  MatMulArguments q = p;
  const auto widen = [](Rows& rows, int64_t columns) {
    rows.stride = std::max(rows.stride, columns);
  };
  widen(q.a, q.a_transposed ? q.m : q.k);
  widen(q.b, q.b_transposed ? q.k : q.n);
  widen(q.y, q.n);
  MultiplierOf(context.device()).Multiply(context, q);
}

}  // namespace adder::cuda
