// What the files here have in common, and what Python calls.
#pragma once

#include <cstddef>
#include <cstdint>

#include "team.h"

extern "C" {

struct Weights {
  const uint16_t* panels;
  const float* bias;  // or null
  size_t outputs, inputs;
};

// A layer's slots.
struct Slots {
  float *keys, *values;  // [rows][kv_heads][positions][dim]
  size_t row, head;      // strides
  size_t kv_heads, dim;  // dim: a multiple of eight
};

// The tokens of a pass: where each has its key and value, behind those that it sees.
struct Tokens {
  const int64_t *rows, *positions;
  size_t count;
};

struct Queries {
  const float* at;
  size_t row, head;  // strides
  size_t groups;     // heads that share a key head
};

// The tables of a phase, by row and entry: of features and of what is done to them.
struct Edits {
  const float *enc, *dec;  // [rows][.., width]; enc: null where nothing is read
  size_t features;         // from a row to the next, in both
  const float *gain, *offset, *gate, *threshold, *scale, *shift, *floor, *ceiling;  // [rows][..]
  const bool* adds;
  size_t numbers;  // from a row to the next
  size_t entries, width;
};

// What edits do to some tokens. acts: by token, or null where all are edited. noted [2][rows][entries]: the
// activations of a row's last token before and after, or null.
struct Move {
  const Edits* edits;
  const bool* acts;
  float* noted;
};

// What becomes of the dot products of queries and keys.
struct Weighing {
  size_t window;  // keys that are seen, up to a token's own; 0: all
  float scale, cap;    // cap: 0 for none
  const float* sinks;  // of each head, or null: a logit that takes weight and gives nothing
};

void product(const Weights* w, const float* x, float* y, size_t rows, int threads);
void rms_norm(const float* x, const float* weight, float* y, size_t rows, size_t width, float eps);
void gated(const float* both, float* y, size_t rows, size_t width, int gelu);
void turned(const float* made, const float* cos, const float* sin, const Slots* s, const Tokens* t,
            float* query, size_t heads);
void attend(const Slots* s, const Tokens* t, const Queries* q, const Weighing* w, float* out, int threads);
}

// The same by a team, each member of which calls it. Between two of them, and behind the last, it is to
// meet. laid: room for `room_for(rows)` rows of inputs.
void multiply(const Member& m, const Weights& w, const float* x, float* y, size_t rows, float* laid);
size_t room_for(size_t rows);
// Some of so many tokens, each of a row of its own: adds to y what the edits on x add.
void edit(const Move& m, const float* x, float* y, size_t rows, Range some);
void attend(const Member& m, const Slots& s, const Tokens& t, const Queries& q, const Weighing& w,
            float* out);
