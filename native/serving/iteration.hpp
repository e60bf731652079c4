// Seconds of a device in iterations of engines, as StepModel.device_s of optalloc.cost.engine.step states them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace optalloc::serving {

// Coefficients of an engine, for T tokens of a group of which s are of decoding sequences and p of prompts:
//   roof(dense_s, dense_token_s T) + roof(expert_s R, expert_token_s T) + roof(head_s, head_sequence_s s)
//   + sequence_s s + prompt_s p + token_s T + fixed_s,    R = 1 - e^(missed T) kept,    p = sharpness of the roof
enum Coefficient : std::size_t {
    kDense,
    kDenseToken,
    kExpert,
    kExpertToken,
    kMissed,
    kKept,
    kHead,
    kHeadSequence,
    kSequence,
    kPrompt,
    kToken,
    kFixed,
    kSharpness,
    kCoefficients,
};

// Writes seconds[i] of engine[i] with prompt[i] and sequences[i]; `coefficients` is a column of `engines` for each of the
// above. Time O(engine.size()).
void device_seconds(std::span<const double> coefficients, std::size_t engines, std::span<const std::int64_t> engine,
                    std::span<const double> prompt, std::span<const double> sequences, std::span<double> seconds);

}  // namespace optalloc::serving
