// Whole decoder layers, one after the other, in one call by one team: what product.cpp and layers.cpp give, in the
// order in which Llama, Mistral, Qwen and Gemma do it, so to the bit what their parts give one by one.

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

void normed(const Norm& n, float* x, size_t rows, size_t width) {
  if (n.weight) rms_norm(x, n.weight, x, rows, width, n.eps);
}

}  // namespace

extern "C" {

// What is done to the residual stream where a layer has put it out.
struct Moves {
  const Move* at;
  size_t count;
};

// What follows the last layer of a model. head: null where no logits are wanted.
struct End {
  Norm norm;
  const Weights* head;
  float* logits;  // [tokens][vocabulary]
};

// What rotates queries and keys of each token, [tokens][dim].
struct Turn {
  const float *cos, *sin;
};

// Norms whose weights are null are not there: of heads, and of what attention and MLP add.
struct Layer {
  Norm before, attended, between, gated, queries, keys;
  const Weights *joined, *out, *both, *down;
  Slots slots;
  size_t heads, rotation;
  Weighing weighing;
  int gelu;
};
}

namespace {

struct Pass {
  const Tokens& t;
  const Turn* turns;
  float *x, *into, *made, *out, *laid;
};

// Each reads what was there before any of them.
void edit(const Member& m, const Moves& moves, const Pass& p, size_t width) {
  if (!moves.count) return;
  const Range own = m.share(p.t.count);
  std::copy(p.x + own.from * width, p.x + own.to * width, p.into + own.from * width);
  for (size_t i = 0; i < moves.count; i++) edit(moves.at[i], p.into, p.x, p.t.count, own);
}

void finish(const Member& m, const End& end, const Pass& p, size_t width) {
  const Range own = m.share(p.t.count);
  float* mine = p.x + own.from * width;
  normed(end.norm, mine, own.count(), width);
  if (!end.head) return;
  m.meet();
  multiply(m, *end.head, p.x, end.logits, p.t.count, p.laid);
}

// x [tokens][width], the residual stream before the layer and after it. What is each token's own a
// member does for its share of the tokens.
void run(const Member& m, const Layer& l, const Pass& p) {
  const size_t width = l.joined->inputs, inner = l.down->inputs, dim = l.slots.dim;
  const size_t all = p.t.count, heads = l.heads * dim;
  const Range own = m.share(all);
  const Tokens mine{p.t.rows + own.from, p.t.positions + own.from, own.count()};
  const size_t at = own.from * width;
  const auto times = [&](const Weights* w, float* y) {
    m.meet();
    multiply(m, *w, p.into, y, all, p.laid);
    m.meet();
  };
  rms_norm(p.x + at, l.before.weight, p.into + at, own.count(), width, l.before.eps);
  times(l.joined, p.made);
  for (size_t i = own.from; i < own.to; i++) {
    float* made = p.made + i * l.joined->outputs;
    normed(l.queries, made, l.heads, dim);
    normed(l.keys, made + heads, l.slots.kv_heads, dim);
  }
  const Turn& turn = p.turns[l.rotation];
  turned(p.made + own.from * l.joined->outputs, turn.cos + own.from * dim, turn.sin + own.from * dim,
         &l.slots, &mine, p.out + own.from * heads, l.heads);
  m.meet();
  const Queries q{p.out, heads, dim, l.heads / l.slots.kv_heads};
  attend(m, l.slots, p.t, q, l.weighing, p.into);
  times(l.out, p.out);
  normed(l.attended, p.out + at, own.count(), width);
  add(p.out + at, p.x + at, own.count() * width);
  rms_norm(p.x + at, l.between.weight, p.into + at, own.count(), width, l.between.eps);
  times(l.both, p.made);
  gated(p.made + own.from * 2 * inner, p.into + own.from * inner, own.count(), inner, l.gelu);
  times(l.down, p.out);
  normed(l.gated, p.out + at, own.count(), width);
  add(p.out + at, p.x + at, own.count() * width);
}

}  // namespace

extern "C" {

// y [tokens][width] of x: the residual stream after and before these layers, of which each has its moves, for
// tokens of a row of their own. After an end, y is normed.
void decoder_layers(const Layer* const* layers, const Moves* moves, size_t count, const Tokens* t,
                    const float* x, const Turn* turns, float* y, const End* end, int threads) {
  static thread_local std::vector<float> into, made, out, laid;
  size_t widest = 0, heads = 0, most = 0;
  for (size_t i = 0; i < count; i++) {
    const Layer& l = *layers[i];
    heads = std::max({heads, l.heads * l.slots.dim, l.joined->inputs});
    widest = std::max({widest, heads, l.down->inputs});
    most = std::max({most, l.joined->outputs, l.both->outputs});
  }
  into.resize(t->count * widest);
  made.resize(t->count * most);
  out.resize(t->count * heads);
  laid.resize(room_for(t->count) * widest);
  const size_t width = layers[0]->joined->inputs;
  std::copy(x, x + t->count * width, y);
  const Pass pass{*t, turns, y, into.data(), made.data(), out.data(), laid.data()};
  together(threads, [&](const Member& m) {
    for (size_t i = 0; i < count; i++) {
      run(m, *layers[i], pass);
      edit(m, moves[i], pass, width);
    }
    if (end) finish(m, *end, pass, width);
  });
}
}
