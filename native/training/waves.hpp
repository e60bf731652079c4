// When each stage of a pipeline ends, without the starts of its operations.
//
// GPipe has a closed form. The operations of the others lie in waves, so that each waits for the one before it on its
// stage and for one of a neighbouring stage in the wave before. Stages are numbered from the last, q = p - 1 - i:
//
//   1F1B, ZB-H1   forward n in wave 2 n - q, backward j in wave 2 j + q + 1
//   interleaved   forward r + w, then backward r, in wave r + q, where w = 2 q + (v - 1) p are the forwards that the
//                 stage runs first; the first stage's neighbour is the last one, whose results go round to it
//
// So all stages of a wave are computed at once. Once every stage takes part, a cycle (two waves; or as many as a group
// of micro-batches has) is the same map of sums and maxima every time. Such maps keep an even shift of their
// argument and bring no two arguments further apart: where a state has moved on evenly up to a rounding error since
// an earlier one, it does so again with at most that error, and whole repetitions are added at once.
#pragma once

#include <span>
#include <vector>

#include "training/pipeline.hpp"

namespace optalloc::training {

class WaveClock {
  public:
    explicit WaveClock(const Shape& shape) : shape_(shape) {}

    // The end of the last operation of each of the first `stages` stages. Fewer than all (one chunk a stage): behind the
    // last of them a micro-batch turns round after `turn` seconds, however many are there at once.
    void ends(const ChunkTimes& times, std::span<double> stage_end, int stages, double turn);

  private:
    void gpipe(const ChunkTimes& times, std::span<double> stage_end, int stages, double turn) const;
    void alternating(const ChunkTimes& times, std::span<double> stage_end, int stages, double turn);
    void interleaved(const ChunkTimes& times, std::span<double> stage_end);

    Shape shape_;
    std::vector<double> room_, last_;  // of the waves, and an earlier state
};

}  // namespace optalloc::training
