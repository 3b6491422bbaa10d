// What is asked of a row of logits: its total, its likeliest tokens, and what is expected under it. For
// x86 with AVX2; a row's answers depend on nothing but itself, to the bit.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "native.h"
#include "vectors.h"

namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
// Of a row, whatever is asked: with their lanes four times as many as the 256 tokens that sampling wants.
constexpr size_t kStretches = 128;

// A row's logits, eight at a time; behind the last there is what no token has.
class Row {
 public:
  Row(const float* x, size_t n) : x_(x), whole_(n / kLanes), vectors((n + kLanes - 1) / kLanes) {
    std::fill(last_, last_ + kLanes, kNone);
    std::copy(x + whole_ * kLanes, x + n, last_);
  }
  Vec operator[](size_t i) const { return loaded(i < whole_ ? x_ + i * kLanes : last_); }

 private:
  const float* x_;
  size_t whole_;
  float last_[kLanes];

 public:
  const size_t vectors;
};

double wide(Vec v) {
  float lanes[kLanes];
  stored(lanes, v);
  double sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}

struct Token {
  float score;
  int64_t id;
  bool operator<(const Token& other) const {
    return score > other.score || (score == other.score && id < other.id);
  }
};

// The most likely of a row divided by its temperature.
class Likeliest {
 public:
  Likeliest(const float* x, size_t n, float divisor, size_t most)
      : row_(x, n), n_(n), divisor_(all(divisor)), most_(most) {
    long_ = (row_.vectors + kStretches - 1) / kStretches;
    for (size_t from = 0; from < row_.vectors; from += long_) {
      Vec top = all(kNone);
      for (size_t i = from; i < until(from); i++) top = _mm256_max_ps(top, row_[i]);
      tops_.resize(tops_.size() + kLanes);
      stored(&tops_[tops_.size() - kLanes], _mm256_div_ps(top, divisor_));
    }
  }

  // log of the sum of e^score; no number where a score is none, or none is finite.
  double total() const {
    const float top = *std::max_element(tops_.begin(), tops_.end());
    double sum = 0;
    for (size_t from = 0; from < row_.vectors; from += long_) {
      Vec part = all(0);
      for (size_t i = from; i < until(from); i++)
        part = _mm256_add_ps(part, exponential(_mm256_sub_ps(score(i), all(top))));
      sum += wide(part);
    }
    return top + std::log(sum);
  }

  // Of numbers that are such, the greatest first, equal ones by id.
  void find(float* scores, int64_t* ids) {
    std::vector<Token> found = above(least());
    std::nth_element(found.begin(), found.begin() + (most_ - 1), found.end());
    std::sort(found.begin(), found.begin() + most_);
    for (size_t i = 0; i < most_; i++) {
      scores[i] = found[i].score;
      ids[i] = found[i].id;
    }
  }

 private:
  size_t until(size_t from) const { return std::min(from + long_, row_.vectors); }
  Vec score(size_t i) const { return _mm256_div_ps(row_[i], divisor_); }

  // What `most` tokens reach: as many lanes of stretches have one that does.
  float least() {
    if (tops_.size() < most_) return kNone;
    std::vector<float> sorted = tops_;
    std::nth_element(sorted.begin(), sorted.begin() + (most_ - 1), sorted.end(), std::greater<>());
    return sorted[most_ - 1];
  }

  std::vector<Token> above(float least) const {
    std::vector<Token> found;
    found.reserve(2 * most_);
    const Vec bar = all(least);
    for (size_t i = 0; i < row_.vectors; i++) {
      const Vec own = score(i);
      unsigned reach = _mm256_movemask_ps(_mm256_cmp_ps(own, bar, _CMP_GE_OQ));
      if (!reach) continue;
      float lanes[kLanes];
      stored(lanes, own);
      for (; reach; reach &= reach - 1) {
        const size_t lane = __builtin_ctz(reach), id = i * kLanes + lane;
        if (id < n_) found.push_back({lanes[lane], static_cast<int64_t>(id)});
      }
    }
    return found;
  }

  Row row_;
  size_t n_;
  Vec divisor_;
  size_t most_, long_;
  std::vector<float> tops_;  // of each stretch, by lane
};

// Under the distribution of x, what x - y is expected to be, or x where there is no y. What has no
// chance adds nothing, be it what it may.
double mean(const float* x, const float* y, size_t n, float total) {
  const Row own(x, n), other(y ? y : x, n);
  constexpr size_t kPart = 64;
  double mass = 0, sum = 0;
  for (size_t from = 0; from < own.vectors; from += kPart) {
    Vec masses = all(0), sums = all(0);
    for (size_t i = from; i < std::min(from + kPart, own.vectors); i++) {
      const Vec log = _mm256_sub_ps(own[i], all(total)), p = exponential(log);
      const Vec chance = _mm256_cmp_ps(log, all(-87), _CMP_GT_OQ);
      const Vec term = _mm256_mul_ps(p, y ? _mm256_sub_ps(own[i], other[i]) : own[i]);
      masses = _mm256_add_ps(masses, _mm256_and_ps(chance, p));
      sums = _mm256_add_ps(sums, _mm256_and_ps(chance, term));
    }
    mass += wide(masses);
    sum += wide(sums);
  }
  return sum / mass;
}

}  // namespace

extern "C" {

// Of each row of logits [vocab] divided by its own divisor: the log of the sum of e^score, no number
// where that is not finite, and of others the `most` greatest, by score and then by id.
void likeliest(const float* const* rows, const float* divisors, size_t count, size_t vocab, size_t most,
               float* scores, int64_t* ids, double* totals, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && count > 1)
  for (size_t r = 0; r < count; r++) {
    Likeliest row(rows[r], vocab, divisors[r], most);
    totals[r] = row.total();
    if (most && std::isfinite(totals[r])) row.find(scores + r * most, ids + r * most);
  }
}

// Under the distribution of each row, whose total is known, the mean of its logits less those of the
// other; others: null for none.
void expected(const float* const* rows, const float* const* others, const double* totals, size_t count,
              size_t vocab, double* means, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && count > 1)
  for (size_t r = 0; r < count; r++)
    means[r] = mean(rows[r], others ? others[r] : nullptr, vocab, static_cast<float>(totals[r]));
}
}
