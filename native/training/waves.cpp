#include "training/waves.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "clones.hpp"

namespace optalloc::training {

namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();
constexpr double kEven = 1e-13;  // of the time: shifts this close are one

// One operation of neighbouring rows: each begins when its stage is free and what the neighbour sent in the wave
// before has arrived; `after` is work that nobody waits for.
OPTALLOC_CLONES void operate(double* __restrict free, double* __restrict sent, const double* __restrict came,
                             const double* __restrict link, const double* __restrict length,
                             const double* __restrict after, int count) {
    for (int h = 0; h < count; ++h) {
        const double arrived = came[h] + link[h];
        const double end = (free[h] < arrived ? arrived : free[h]) + length[h];
        sent[h] = end;
        free[h] = end + after[h];
    }
}

// The same without `after`, in place: what comes was sent by the row above.
OPTALLOC_CLONES void pass_on(double* __restrict free, double* sent, const double* __restrict link,
                             const double* __restrict length, int count) {
    for (int h = 0; h < count; ++h) {
        const double arrived = sent[h + 1] + link[h];
        const double end = (free[h] < arrived ? arrived : free[h]) + length[h];
        sent[h] = end;
        free[h] = end;
    }
}

// Has a state come back, moved on evenly? Brent's method: it is compared with one earlier state, which is replaced
// after 1, 2, 4, ... steps.
class Repetition {
  public:
    explicit Repetition(std::vector<double>& last) : last_(last) { last_.clear(); }

    // Steps since the equal state, or 0. `state` gives value number k.
    template <typename State>
    int steps(std::size_t width, const State& state) {
        if (!last_.empty()) {
            ++since_;
            shift_ = state(0) - last_[0];
            const double slack = kEven * state(0);
            std::size_t k = width - 1;
            while (k > 0 && std::abs(state(k) - last_[k] - shift_) <= slack) --k;
            if (k == 0) return since_;
            if (since_ < length_) return 0;
            length_ *= 2;
        }
        last_.resize(width);
        for (std::size_t k = 0; k < width; ++k) last_[k] = state(k);
        since_ = 0;
        return 0;
    }
    double shift() const { return shift_; }

  private:
    std::vector<double>& last_;
    int since_ = 0, length_ = 1;
    double shift_ = 0.0;
};

// Hands out parts of one array.
struct Room {
    double* next;
    double* take(int count) {
        double* mine = next;
        next += count;
        return mine;
    }
};

}  // namespace

void WaveClock::ends(const ChunkTimes& times, std::span<double> stage_end, int stages, double turn) {
    if (shape_.schedule == Schedule::kGpipe) return gpipe(times, stage_end, stages, turn);
    if (shape_.schedule == Schedule::kInterleaved) return interleaved(times, stage_end);
    alternating(times, stage_end, stages, turn);
}

// A path of equal micro-batches over the stages has each stage once and one of them m - 1 times more, so the last
// forward of stage i ends after sum_{j<=i} F_j + (m - 1) max_{j<=i} F_j and links. Backwards begin when the last
// stage is free, and every earlier stage is free before they arrive. A backward that waits for its own forward to
// turn round is number n: it ends a path that is linear in n, so n = 0 or n = m - 1 is longest.
void WaveClock::gpipe(const ChunkTimes& times, std::span<double> stage_end, int stages, double turn) const {
    const double more = shape_.num_micro - 1.0;
    double once = 0.0, longest = 0.0;
    for (int i = 0; i < stages; ++i) {
        const auto k = static_cast<std::size_t>(i);
        once += times.forward[k] + (i > 0 ? times.link[k - 1] : 0.0);
        longest = std::max(longest, times.forward[k]);
    }
    const double free = once + more * longest;
    double back = 0.0;
    longest = 0.0;
    for (std::size_t k = static_cast<std::size_t>(stages); k-- > 0;) {
        const double length = times.backward[k] + times.weight[k];
        back += length + (k + 1 < static_cast<std::size_t>(stages) ? times.link[k] : 0.0);
        longest = std::max(longest, length);
        stage_end[k] = back + std::max(std::max(free, once + turn) + more * longest, free + turn);
    }
}

// Row r is the r-th stage from the last one simulated. Even rows run forwards while odd ones run backwards: rows of
// one kind lie side by side, and the row above row h of the even ones is row h of the odd ones.
void WaveClock::alternating(const ChunkTimes& times, std::span<double> stage_end, int stages, double turn) {
    const int p = shape_.num_stages, m = shape_.num_micro, behind = p - stages;  // stages not simulated
    const bool split = shape_.splits_backward();
    const int half = stages / 2 + 2;
    room_.assign(static_cast<std::size_t>(15 * half + behind + 1), 0.0);
    Room room{room_.data()};
    double *forward[2], *backward[2], *weight[2], *free[2], *sent[2], *came[2], *link[2];
    for (int odd = 0; odd < 2; ++odd) {
        forward[odd] = room.take(half);
        backward[odd] = room.take(half);
        weight[odd] = room.take(half);  // 0 while the stage puts its weight gradients off
        free[odd] = room.take(half);
        sent[odd] = room.take(half) + 1;  // entry -1: what turns round behind the last stage
        came[odd] = room.take(half) + 1;
        link[odd] = room.take(half);  // to the row below
    }
    const double* nothing = room.take(half);
    double* flying = room.take(behind + 1);  // ends of the last stage's forwards that have not turned round
    int newest = 0, oldest = 0;
    for (int r = 0; r < stages; ++r) {
        const auto i = static_cast<std::size_t>(stages - 1 - r);
        forward[r % 2][r / 2] = times.forward[i];
        backward[r % 2][r / 2] = split ? times.backward[i] : times.backward[i] + times.weight[i];
        link[r % 2][r / 2] = r > 0 ? times.link[i] : 0.0;
    }
    link[stages % 2][stages / 2] = kNever;  // nothing lies above the first stage
    const int first = 1 - p, last = 2 * (m - 1) + p;
    const int from = split ? 2 * p - behind : p, until = 2 * (m - 1) - (p - 1);  // every row takes part
    Repetition seen(last_);
    bool watched = until - from >= 4;
    for (int wave = first; wave <= last; ++wave) {
        if (watched && wave >= from && (wave - from) % 2 == 0) {
            const auto rows = static_cast<std::size_t>(stages);
            const auto width = rows + static_cast<std::size_t>(behind > 0 ? behind + 1 : 0);
            const int cycles = seen.steps(width, [&](std::size_t k) {
                if (k < rows) return free[k % 2][k / 2];
                return flying[(static_cast<std::size_t>(oldest) + k - rows) % static_cast<std::size_t>(behind + 1)];
            });
            watched = wave < until;
            if (cycles > 0) {
                const int repeated = std::max(0, (until + 1 - wave) / (2 * cycles));
                const double shift = repeated * seen.shift();
                for (int odd = 0; odd < 2; ++odd) {
                    for (int h = 0; h < half; ++h) free[odd][h] += shift;
                    for (int h = 0; h < half - 1; ++h) came[odd][h] += shift;
                }
                for (int k = 0; k <= behind; ++k) flying[k] += shift;
                wave += repeated * 2 * cycles;
                watched = false;
            }
        }
        if (split && wave >= p && wave < 2 * p - behind) {  // the first weight gradient of this row
            const int r = 2 * p - 1 - wave - behind;
            weight[r % 2][r / 2] = times.weight[static_cast<std::size_t>(stages - 1 - r)];
        }
        // Rows that run forwards or backwards, first and last; their parity is that of the wave.
        const int odd = (wave + behind) & 1;  // the kind of rows that runs forwards
        const auto rows = [&](int low, int high, int kind, auto&& run) {
            low = (std::max(low, 0) - kind + 1) / 2;
            high = std::min(high, stages - 1) - kind;
            high = high < 0 ? -1 : high / 2;
            if (low <= high) run(low, high - low + 1);
        };
        rows(-wave - behind, 2 * (m - 1) - wave - behind, odd, [&](int h, int count) {
            // From the row above: the odd row of the same place, or the even row of the next.
            const int other = 1 - odd, place = h + odd;
            operate(free[odd] + h, sent[odd] + h, came[other] + place, link[other] + place, forward[odd] + h,
                    nothing, count);
            if (h == 0 && odd == 0 && behind > 0) {
                flying[newest] = sent[0][0];
                newest = newest == behind ? 0 : newest + 1;
            }
        });
        rows(wave - 1 - 2 * (m - 1) - behind, wave - 1 - behind, 1 - odd, [&](int h, int count) {
            const int mine = 1 - odd;  // from the row below: the odd row before, or the even row of the same place
            if (mine == 0 && h == 0) {
                came[1][-1] = kNever;
                if (behind > 0) {
                    came[1][-1] = flying[oldest] + turn;
                    oldest = oldest == behind ? 0 : oldest + 1;
                }
            }
            operate(free[mine] + h, sent[mine] + h, came[odd] + h - (1 - mine), link[mine] + h, backward[mine] + h,
                    weight[mine] + h, count);
        });
        std::swap(sent[0], came[0]);
        std::swap(sent[1], came[1]);
    }
    for (int r = 0; r < stages; ++r) {
        const auto i = static_cast<std::size_t>(stages - 1 - r);
        stage_end[i] = free[r % 2][r / 2] + (split ? std::min(m, static_cast<int>(i)) * times.weight[i] : 0.0);
    }
}

// Row q is the q-th stage from the last; its tables have a row a chunk. In one wave at most two chunks run forwards, and
// at most two backwards: rows are in order of their forwards, and of their backwards the other way.
void WaveClock::interleaved(const ChunkTimes& times, std::span<double> stage_end) {
    const int p = shape_.num_stages, v = shape_.chunks_per_stage, chunks = p * v;
    const int total = v * shape_.num_micro;
    room_.assign(static_cast<std::size_t>(4 * chunks + 5 * p + 4), 0.0);
    Room room{room_.data()};
    double *into = room.take(chunks), *forward = room.take(chunks);  // link and time of a chunk's forward, then backward
    double *back_into = room.take(chunks), *backward = room.take(chunks);
    double *free = room.take(p), *sent = room.take(p + 1);     // entry p: from the last stage round to the first
    double *back = room.take(p + 1) + 1, *came = room.take(p + 1) + 1;  // entry -1: from the first round to the last
    const double* nothing = room.take(p);
    for (int c = 0; c < chunks; ++c) {
        const auto k = static_cast<std::size_t>(c);
        const int cell = c / p * p + p - 1 - c % p;
        into[cell] = c == 0 ? kNever : times.link[k - 1];
        forward[cell] = times.forward[k];
        back_into[cell] = c + 1 == chunks ? kNever : times.link[k];
        backward[cell] = times.backward[k] + times.weight[k];
    }
    const int last = total + p - 2, until = total - chunks;  // every row takes part from p to `until`
    Repetition seen(last_);
    bool watched = true;
    for (int wave = 1 - chunks; wave <= last; ++wave) {
        if (watched && wave >= p && (wave - p) % chunks == 0) {
            const int groups = seen.steps(static_cast<std::size_t>(2 * p), [&](std::size_t k) {
                return k < static_cast<std::size_t>(p) ? free[k] : sent[k - static_cast<std::size_t>(p)];
            });
            watched = wave + chunks <= until;
            if (groups > 0) {
                const int repeated = std::max(0, (until + 1 - wave) / (chunks * groups));
                const double shift = repeated * seen.shift();
                for (int q = 0; q < p; ++q) {
                    free[q] += shift;
                    sent[q] += shift;
                    came[q] += shift;
                }
                wave += repeated * chunks * groups;
                watched = false;
            }
        }
        // Forward number ahead + q of row q; groups of p are of one chunk, and rows from `next` on begin another.
        const int ahead = wave + chunks - p;
        int low = std::max(0, -ahead), high = std::min(p, total - ahead);
        if (low < high) {
            sent[p] = sent[0];
            const int block = (ahead + chunks) / p - v, next = p - (ahead + chunks) % p;
            const auto run = [&](int begin, int end, int number) {
                if (begin >= end) return;
                const int cell = number % v * p + begin;
                pass_on(free + begin, sent + begin, into + cell, forward + cell, end - begin);
            };
            run(low, std::min(high, next), block);
            run(std::max(low, next), high, block + 1);
        }
        low = std::max(0, wave - total + 1);
        high = std::min(p, wave + 1);
        if (low < high) {  // backward number wave - q
            came[-1] = came[p - 1];
            const int block = wave / p, next = wave % p + 1;
            const auto run = [&](int begin, int end, int number) {
                if (begin >= end) return;
                const int cell = (v - 1 - number % v) * p + begin;
                operate(free + begin, back + begin, came + begin - 1, back_into + cell, backward + cell, nothing,
                        end - begin);
            };
            run(low, std::min(high, next), block);
            run(std::max(low, next), high, block - 1);
            std::swap(back, came);
        }
    }
    for (int i = 0; i < p; ++i) stage_end[static_cast<std::size_t>(i)] = free[p - 1 - i];
}

}  // namespace optalloc::training
