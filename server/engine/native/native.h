// What the files here have in common, and what Python calls.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct Weights {
  const uint16_t* panels;
  const float* bias;  // or null
  size_t outputs, inputs;
};

struct Slots {
  float *keys, *values;        // [rows][kv_heads][positions][dim]
  const int64_t* positions;    // of each row's newest token
  size_t row, head;            // strides
  size_t rows, kv_heads, dim;  // dim: a multiple of kLanes
};

struct Queries {
  const float* at;
  size_t row, head;  // strides
  size_t groups;     // heads that share a key head
};

void product(const Weights* w, const float* x, float* y, size_t rows, int threads);
void rms_norm(const float* x, const float* weight, float* y, size_t rows, size_t width, float eps);
void gated(const float* both, float* y, size_t rows, size_t width);
void turned(const float* made, const float* cos, const float* sin, const Slots* s, float* query,
            size_t heads);
void attend(const Slots* s, const Queries* q, size_t window, float scale, float* out, int threads);
}
