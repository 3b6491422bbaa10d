// Threads that go through the stages of one piece of work together.
//
// A stage takes some ten microseconds, and to wake a thread that sleeps as long or longer, so who is
// done waits awake. Parts of a stage are taken as they come: a thread that the system has stopped for a
// while holds up one part, not its share.
#pragma once

#include <immintrin.h>
#include <omp.h>

#include <atomic>
#include <cstddef>
#include <thread>

class Team {
 public:
  // Until all have come. What was taken in the stage before is forgotten.
  void meet(size_t members) {
    if (members == 1) return taken_.store(0, std::memory_order_relaxed);
    const unsigned stage = stage_.load(std::memory_order_relaxed);
    if (here_.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
      here_.store(0, std::memory_order_relaxed);
      taken_.store(0, std::memory_order_relaxed);
      stage_.store(stage + 1, std::memory_order_release);
      return;
    }
    for (int waited = 0; stage_.load(std::memory_order_acquire) == stage; waited++)
      waited < kAwake ? _mm_pause() : std::this_thread::yield();
  }

  size_t take() { return taken_.fetch_add(1, std::memory_order_relaxed); }

 private:
  static constexpr int kAwake = 200;  // some us; then others may want the processor
  alignas(64) std::atomic<size_t> here_{0};
  alignas(64) std::atomic<unsigned> stage_{0};
  alignas(64) std::atomic<size_t> taken_{0};
};

struct Range {
  size_t from, to;
  size_t count() const { return to - from; }
};

struct Member {
  Team& team;
  size_t id, of;

  void meet() const { team.meet(of); }
  // The number of the next part of this stage that nobody has taken.
  size_t take() const { return team.take(); }
  // Of n things this one's, by its number.
  Range share(size_t n) const { return {n * id / of, n * (id + 1) / of}; }
};

template <class Work>
void together(int threads, const Work& work) {
  Team team;
  if (threads < 2) return work(Member{team, 0, 1});
#pragma omp parallel num_threads(threads)
  work(Member{team, static_cast<size_t>(omp_get_thread_num()),
              static_cast<size_t>(omp_get_num_threads())});
}
