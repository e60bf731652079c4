#include "serving/iteration.hpp"

#include <algorithm>

#include "clones.hpp"
#include "serving/elementary.hpp"

namespace optalloc::serving {

namespace {

constexpr std::size_t kBlock = 256;  // rows whose columns stay in the cache

OPTALLOC_INLINE double larger(double x, double y) { return x > y ? x : y; }
OPTALLOC_INLINE double smaller(double x, double y) { return x < y ? x : y; }

struct Block {
    double column[kCoefficients][kBlock];
    double tokens[kBlock], stream[kBlock], compute[kBlock], share[kBlock];
};

// Adds the soft maxima (x^p + y^p)^(1/p) of x = stream and y = compute, in steps that are short enough to overlap.
OPTALLOC_INLINE void add_roofs(Block& block, std::size_t rows, double* seconds) {
    double *x = block.stream, *y = block.compute, *share = block.share;
    const double* p = block.column[kSharpness];
    for (std::size_t i = 0; i < rows; ++i) {
        const double most = larger(larger(x[i], y[i]), 1e-30);
        share[i] = larger(smaller(x[i], y[i]) / most, 1e-300);
        x[i] = most;
    }
    for (std::size_t i = 0; i < rows; ++i) share[i] = larger(log_of(share[i]) * p[i], -700.0);
    for (std::size_t i = 0; i < rows; ++i) share[i] = 1.0 + exp_of(share[i]);
    for (std::size_t i = 0; i < rows; ++i) share[i] = log_of(share[i]) / p[i];
    for (std::size_t i = 0; i < rows; ++i) seconds[i] += x[i] * exp_of(share[i]);
}

OPTALLOC_CLONES void fill(Block& block, std::size_t rows, const double* prompt, const double* sequences, bool experts,
                          double* seconds) {
    const auto of = [&block](Coefficient which) { return block.column[which]; };
    const double *dense = of(kDense), *dense_token = of(kDenseToken), *expert = of(kExpert);
    const double *expert_token = of(kExpertToken), *missed = of(kMissed), *kept = of(kKept), *head = of(kHead);
    const double *head_sequence = of(kHeadSequence), *sequence = of(kSequence), *of_prompt = of(kPrompt);
    const double *token = of(kToken), *fixed = of(kFixed);
    double *tokens = block.tokens, *x = block.stream, *y = block.compute;
    for (std::size_t i = 0; i < rows; ++i) {
        tokens[i] = prompt[i] + sequences[i];
        seconds[i] = sequence[i] * sequences[i] + of_prompt[i] * prompt[i] + token[i] * tokens[i] + fixed[i];
        x[i] = dense[i];
        y[i] = dense_token[i] * tokens[i];
    }
    add_roofs(block, rows, seconds);
    for (std::size_t i = 0; i < rows; ++i) {
        x[i] = head[i];
        y[i] = head_sequence[i] * sequences[i];
    }
    add_roofs(block, rows, seconds);
    if (!experts) return;
    for (std::size_t i = 0; i < rows; ++i) {
        x[i] = larger(missed[i] * tokens[i], -700.0);
        y[i] = expert_token[i] * tokens[i];
    }
    for (std::size_t i = 0; i < rows; ++i) x[i] = expert[i] * (1.0 - exp_of(x[i]) * kept[i]);
    add_roofs(block, rows, seconds);
}

}  // namespace

void device_seconds(std::span<const double> coefficients, std::size_t engines, std::span<const std::int64_t> engine,
                    std::span<const double> prompt, std::span<const double> sequences, std::span<double> seconds) {
    Block block;
    const auto routed = coefficients.subspan(kExpertToken * engines, engines);
    const bool experts = std::any_of(routed.begin(), routed.end(), [](double s) { return s > 0.0; });
    for (std::size_t first = 0; first < engine.size(); first += kBlock) {
        const std::size_t rows = std::min(kBlock, engine.size() - first);
        for (std::size_t c = 0; c < kCoefficients; ++c) {
            const double* all = coefficients.data() + c * engines;
            for (std::size_t i = 0; i < rows; ++i) block.column[c][i] = all[engine[first + i]];
        }
        fill(block, rows, prompt.data() + first, sequences.data() + first, experts, seconds.data() + first);
    }
}

}  // namespace optalloc::serving
