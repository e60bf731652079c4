// Rows of engines under loads: chunk and batch whose least time is below a time that is known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace optalloc::serving {

// Figures of every engine with every chunk, as optalloc.serving.configuration.load_lines states them.
struct LoadTable {
    std::size_t engines, intervals;
    std::span<const double> chunk;       // tokens
    std::span<const double> size, time;  // batches, and the multiples of a batch at which its floors are taken
    std::span<const double> line;        // [chunk][engine][kFigures]
    std::span<const double> batch_s;     // [chunk][engine][size][time], seconds of a token
    std::span<const double> free_s;      // [chunk][engine][interval]
    double fresh, output;                // tokens of a prompt that are not cached, and of an answer
    double ttft_s, tpot_s;
};

enum Figure : std::size_t { kRoom, kPromptS, kEachS, kLag, kBurst, kOutside, kQueue, kDepth, kReadS, kFigures };

// What an engine carries: requests a rank, in real and whole numbers, and their interval; whether a batch of all of them
// is allowed, and the seconds of a request to be below.
struct Loads {
    std::span<const std::int64_t> engine, full, interval;
    std::span<const double> q;
    std::span<const std::uint8_t> allowed;
    std::span<const double> below_s;
};

// Rows by number of the load: number of the chunk, and the batch.
struct Promising {
    std::vector<std::int64_t> load, chunk, batch;
};

// The rows of each load whose least times, with the seconds of a token of a whole interval, are below and within the
// targets, by chunk, then the batch of all requests and the others from the largest on; none where the prompts alone take
// as long to read, for that all rows take, but for roundings. Time O(loads chunks sizes).
Promising promising_rows(const LoadTable& table, const Loads& loads);

// Seconds of a token of engines beside the sequences of a cell, [engine][cell]: the least beside so many or more, and the
// most beside so many or fewer. An octave of sequences has 32 cells, from 1 on.
struct TokenCells {
    std::size_t cells;
    std::span<const double> least_s, most_s;
};

// Least seconds of rows with one chunk, q requests a rank of which `fit` decode at most: of the first and of a further
// token, and of a request, by following the rounds of the model from both sides. Time O(rows).
void sharp_rows(const LoadTable& table, std::size_t chunk, const TokenCells& tokens, int rounds,
                std::span<const std::int64_t> engine, std::span<const double> q, std::span<const double> fit,
                std::span<double> ttft_s, std::span<double> token_s, std::span<double> request_s);

// The least lines of engines in intervals of q: seconds at both ends, [engine][interval], and chunk, by number, and batch
// of the least at the right one.
struct LineEnds {
    std::span<const std::int64_t> engine;
    std::span<const double> left, right;  // ends of the intervals
    std::span<double> left_s, right_s;
    std::span<std::int64_t> chunk, batch;
};

// Lowers the ends to the rows with a batch that there are more requests than. Time O(engines chunks sizes intervals).
void lower_full_ends(const LoadTable& table, const LineEnds& ends);

}  // namespace optalloc::serving
