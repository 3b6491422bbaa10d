// A whole decoder layer over rows that decode, in one call: what product.cpp and layers.cpp give, in
// the order in which Llama, Mistral and Qwen 2 do it, so to the bit what their parts give one by one.

#include <algorithm>
#include <vector>

#include "native.h"

namespace {

struct Norm {
  const float* weight;
  float eps;
};

void add(const float* x, float* y, size_t n) {
  for (size_t i = 0; i < n; i++) y[i] = x[i] + y[i];
}

}  // namespace

extern "C" {

struct Layer {
  Norm before, between;
  const Weights *joined, *out, *both, *down;
  size_t heads, window;
  float scale;
};

// y [rows][width] of x: the residual stream after and before the layer.
void decoder_layer(const Layer* l, const Slots* s, const float* x, const float* cos, const float* sin,
                   float* y, int threads) {
  const size_t rows = s->rows, width = l->joined->inputs, inner = l->down->inputs;
  const size_t heads = l->heads * s->dim;
  static thread_local std::vector<float> normed, made, query;
  normed.resize(rows * std::max({width, heads, inner}));
  made.resize(rows * std::max(l->joined->outputs, l->both->outputs));
  query.resize(rows * std::max(heads, width));
  rms_norm(x, l->before.weight, normed.data(), rows, width, l->before.eps);
  product(l->joined, normed.data(), made.data(), rows, threads);
  turned(made.data(), cos, sin, s, query.data(), l->heads);
  const Queries q{query.data(), heads, s->dim, l->heads / s->kv_heads};
  attend(s, &q, l->window, l->scale, normed.data(), threads);
  product(l->out, normed.data(), y, rows, threads);
  add(x, y, rows * width);
  rms_norm(y, l->between.weight, normed.data(), rows, width, l->between.eps);
  product(l->both, normed.data(), made.data(), rows, threads);
  gated(made.data(), normed.data(), rows, inner);
  product(l->down, normed.data(), query.data(), rows, threads);
  add(query.data(), y, rows * width);
}
}
