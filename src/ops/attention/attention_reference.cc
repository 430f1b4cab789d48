// attention: its definition, in double.
#include <algorithm>
#include <cmath>

#include "adder/ops/attention/attention_backends.h"

namespace adder::reference {
namespace {

double* Head(const Tensor& matrix, int64_t row, int64_t head, int64_t d_head) {
  return matrix.data<double>() + row * matrix.stride(0) + head * d_head;
}

double Dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t d = 0; d < count; ++d) sum += a[d] * b[d];
  return sum;
}

// Calls visit(row, head, kv_head, first_key, p) with the probabilities of each row and head.
template <class Visit>
void ForEachRowAndHead(const AttentionShape& shape, const AttentionInputs& inputs,
                       const Visit& visit) {
  for (int64_t s = 0; s < shape.sequences; ++s) {
    const KeyRange& keys = shape.key_ranges[static_cast<size_t>(s)];
    for (int64_t row = inputs.layout.begin(s); row < inputs.layout.end(s); ++row) {
      const int64_t visible = keys.count - (inputs.layout.end(s) - row) + 1;
      for (int64_t head = 0; head < shape.heads; ++head) {
        const int64_t kv_head = head / (shape.heads / shape.kv_heads);
        std::vector<double> p;
        double largest = -INFINITY;
        for (int64_t j = 0; j < visible; ++j) {
          p.push_back(inputs.scale * Dot(Head(inputs.q, row, head, shape.d_head),
                                         Head(inputs.keys, keys.begin + j, kv_head, shape.d_head),
                                         shape.d_head));
          largest = std::max(largest, p.back());
        }
        double sum = 0;
        for (double& each : p) sum += each = std::exp(each - largest);
        for (double& each : p) each /= sum;
        visit(row, head, kv_head, keys.begin, p, largest + std::log(sum));
      }
    }
  }
}

}  // namespace

void Attention(const AttentionInputs& inputs, const AttentionOutputs& outputs) {
  const AttentionShape shape = CheckAttention(inputs, outputs, {DType::kF64}, DType::kF64);
  ForEachRowAndHead(shape, inputs,
                    [&](int64_t row, int64_t head, int64_t kv_head, int64_t first,
                        const std::vector<double>& p, double log_sum_exp) {
                      double* y = Head(outputs.y, row, head, shape.d_head);
                      std::fill_n(y, shape.d_head, 0.0);
                      for (size_t j = 0; j < p.size(); ++j) {
                        const double* value = Head(inputs.values, first + static_cast<int64_t>(j),
                                                   kv_head, shape.d_head);
                        for (int64_t d = 0; d < shape.d_head; ++d) y[d] += p[j] * value[d];
                      }
                      if (outputs.log_sum_exp) {
                        outputs.log_sum_exp.data<double>()[row * shape.heads + head] = log_sum_exp;
                      }
                    });
}

void AttentionBackward(const AttentionInputs& inputs, const Tensor& dy,
                       const AttentionGradients& gradients) {
  const AttentionShape shape = CheckAttentionBackward(inputs, dy, gradients, {DType::kF64});
  for (const Tensor* gradient : {&gradients.dq, &gradients.dkeys, &gradients.dvalues}) {
    if (*gradient) gradient->SetZero();
  }
  const int64_t d_head = shape.d_head;
  ForEachRowAndHead(
      shape, inputs,
      [&](int64_t row, int64_t head, int64_t kv_head, int64_t first, const std::vector<double>& p,
          double /*log_sum_exp*/) {
        const double* q = Head(inputs.q, row, head, d_head);
        const double* gradient = Head(dy, row, head, d_head);
        // The softmax's derivative: ds = p · (dp - Σ p · dp).
        std::vector<double> dp;
        double mean = 0;
        for (size_t j = 0; j < p.size(); ++j) {
          const int64_t key = first + static_cast<int64_t>(j);
          dp.push_back(Dot(gradient, Head(inputs.values, key, kv_head, d_head), d_head));
          mean += p[j] * dp[j];
        }
        for (size_t j = 0; j < p.size(); ++j) {
          const int64_t key = first + static_cast<int64_t>(j);
          const double ds = p[j] * (dp[j] - mean) * inputs.scale;
          const double* k = Head(inputs.keys, key, kv_head, d_head);
          for (int64_t d = 0; d < d_head; ++d) {
            if (gradients.dq) Head(gradients.dq, row, head, d_head)[d] += ds * k[d];
            if (gradients.dkeys) Head(gradients.dkeys, key, kv_head, d_head)[d] += ds * q[d];
            if (gradients.dvalues) {
              Head(gradients.dvalues, key, kv_head, d_head)[d] += p[j] * gradient[d];
            }
          }
        }
      });
}

}  // namespace adder::reference
