#include "serving/load_rows.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace optalloc::serving {

namespace {

constexpr double kSafe = 1.0 - 1e-9;
constexpr double kBusiest = 0.95;
constexpr double kRounding = 1e-14;

// Seconds of a request but for the wait, as Lines.whole_s.
double whole_s(const double* line, double token_s, double answer_s, double q, double fit, double outside) {
    const double start = line[kBurst] * (fit - 1.0) / 2.0 * line[kEachS];
    return q / fit * (line[kPromptS] + answer_s) + line[kLag] * token_s + start + outside * answer_s;
}

// The least wait, as Lines.least_wait_s.
double least_wait_s(const double* line, double whole, double q) {
    const double reads = (q - 1.0) * line[kEachS], weight = line[kQueue] / 2.0 * line[kPromptS];
    const double root = std::sqrt(weight * reads);
    const double least = whole >= reads + root ? weight * reads / std::max(whole - reads, 1e-30)
                                               : reads + 2.0 * root - whole;
    return std::min(std::min(weight * kBusiest / (1.0 - kBusiest), reads), least);
}

// The wait, as Lines.waits_s.
double waits_s(const double* line, double whole, double q) {
    const double reads = (q - 1.0) * line[kEachS], share = std::min(kBusiest, reads / whole);
    return std::min(line[kQueue] * line[kPromptS] * share / (2.0 * (1.0 - share)), reads);
}

// The cell of a number of sequences: its leading bits.
std::size_t cell_of(double sequences, std::size_t cells) {
    constexpr std::int64_t one = std::int64_t{1023} << 5;
    const std::int64_t cell = (std::bit_cast<std::int64_t>(sequences) >> 47) - one;
    return static_cast<std::size_t>(std::clamp<std::int64_t>(cell, 0, static_cast<std::int64_t>(cells) - 1));
}

// Whether a chunk changes nothing against the one before where so many sequences fit, a stage's share of them each.
bool same_as_before(const LoadTable& table, std::size_t c, double fit, double depth) {
    if (c == 0 || table.chunk[c - 1] < 2.0 * table.fresh) return false;
    return (fit - 1.0) / depth * table.fresh / table.output <= table.chunk[c - 1];
}

}  // namespace

Promising promising_rows(const LoadTable& table, const Loads& loads) {
    const std::size_t sizes = table.size.size(), times = table.time.size();
    const double answer = table.output - 1.0;
    Promising found;
    for (std::size_t i = 0; i < loads.engine.size(); ++i) {
        const auto e = static_cast<std::size_t>(loads.engine[i]);
        const double q = loads.q[i], below = loads.below_s[i];
        const std::int64_t full = loads.full[i];
        for (std::size_t c = 0; c < table.chunk.size(); ++c) {
            const std::size_t row = c * table.engines + e;
            const double* line = table.line.data() + row * kFigures;
            if (q * line[kReadS] * (1.0 + kRounding) >= below) continue;
            const double room = line[kRoom], outside = std::min(line[kOutside], q - 1.0) / q;
            const auto promises = [&](double token_s, double fit) {
                const double answer_s = answer * token_s;
                const double turns = q / fit * (line[kPromptS] + answer_s) * kSafe;
                if (!(token_s * kSafe <= table.tpot_s && turns < below && turns - answer_s <= table.ttft_s)) return false;
                const double whole = whole_s(line, token_s, answer_s, q, fit, outside) * kSafe;
                return whole - answer_s <= table.ttft_s && whole + least_wait_s(line, whole, q) * kSafe < below;
            };
            const auto keep = [&](std::int64_t batch) {
                found.load.push_back(static_cast<std::int64_t>(i));
                found.chunk.push_back(static_cast<std::int64_t>(c));
                found.batch.push_back(batch);
            };
            if (loads.allowed[i] != 0 && room >= 1.0) {
                const double fit = std::min(q, std::max(1.0, room));
                const auto k = static_cast<std::size_t>(loads.interval[i]);
                const bool new_row = q > room || !same_as_before(table, c, fit, line[kDepth]);
                if (new_row && promises(table.free_s[row * table.intervals + k], fit)) keep(full);
            }
            std::size_t m = 0;
            for (std::size_t s = sizes; s-- > 0;) {
                const double b = table.size[s];
                while (m + 1 < times && table.time[m + 1] <= q / b) ++m;
                if (static_cast<double>(full) <= b || room < b || same_as_before(table, c, b, 1.0)) continue;
                if (promises(table.batch_s[(row * sizes + s) * times + m], b)) keep(static_cast<std::int64_t>(b));
            }
        }
    }
    return found;
}

void lower_full_ends(const LoadTable& table, const LineEnds& ends) {
    const std::size_t sizes = table.size.size(), times = table.time.size(), intervals = ends.left.size();
    const double answer = table.output - 1.0;
    for (std::size_t i = 0; i < ends.engine.size(); ++i) {
        double *left_s = &ends.left_s[i * intervals], *right_s = &ends.right_s[i * intervals];
        for (std::size_t c = 0; c < table.chunk.size(); ++c) {
            const std::size_t row = c * table.engines + static_cast<std::size_t>(ends.engine[i]);
            const double* line = table.line.data() + row * kFigures;
            for (std::size_t s = sizes; s-- > 0;) {
                const double b = table.size[s];
                if (line[kRoom] < b || same_as_before(table, c, b, 1.0)) continue;
                const double* batch_s = table.batch_s.data() + (row * sizes + s) * times;
                const auto above = std::lower_bound(ends.left.begin(), ends.left.end(), b) - ends.left.begin();
                std::size_t m = 0;
                for (std::size_t k = static_cast<std::size_t>(std::max<std::ptrdiff_t>(1, above)); k < intervals; ++k) {
                    const double left = ends.left[k], right = ends.right[k];
                    while (m + 1 < times && table.time[m + 1] <= left / b) ++m;
                    const double token_s = batch_s[m], turn_s = (line[kPromptS] + answer * token_s) / b * kSafe;
                    if (!(turn_s * left < left_s[k] || turn_s * right < right_s[k]) ||
                        turn_s * left - answer * token_s > table.ttft_s || token_s * kSafe > table.tpot_s) {
                        continue;
                    }
                    const double outside = std::min(std::min(line[kOutside], left - 1.0) / left,
                                                    std::min(line[kOutside], right - 1.0) / right);
                    const double answer_s = answer * token_s, safe_s = answer_s * kSafe;
                    const double low = whole_s(line, token_s, answer_s, left, b, outside) * kSafe;
                    const double high = whole_s(line, token_s, answer_s, right, b, outside) * kSafe;
                    if (low - safe_s > table.ttft_s) continue;
                    const double wait = least_wait_s(line, high, left) * kSafe;
                    left_s[k] = std::min(left_s[k], low + wait);
                    if (high + wait < right_s[k]) {
                        right_s[k] = high + wait;
                        ends.chunk[i * intervals + k] = static_cast<std::int64_t>(c);
                        ends.batch[i * intervals + k] = static_cast<std::int64_t>(b);
                    }
                }
            }
        }
    }
}

void sharp_rows(const LoadTable& table, std::size_t chunk, const TokenCells& tokens, int rounds,
                std::span<const std::int64_t> engine, std::span<const double> q, std::span<const double> fit,
                std::span<double> ttft_s, std::span<double> token_s, std::span<double> request_s) {
    const double answer = table.output - 1.0;
    for (std::size_t i = 0; i < engine.size(); ++i) {
        const auto e = static_cast<std::size_t>(engine[i]);
        const double* line = table.line.data() + (chunk * table.engines + e) * kFigures;
        const double *least_s = tokens.least_s.data() + e * tokens.cells, *most_s = tokens.most_s.data() + e * tokens.cells;
        const double outside = std::min(line[kOutside], q[i] - 1.0) / q[i];
        const auto whole = [&](double seconds) { return whole_s(line, seconds, answer * seconds, q[i], fit[i], outside); };
        const auto decoding = [&](double seconds) {
            const double all = whole(seconds);
            return std::max(1.0, q[i] * answer * seconds / (all + waits_s(line, all, q[i])));
        };
        std::size_t low = cell_of(fit[i], tokens.cells), high = low;
        for (int round = 1; round < rounds; ++round) {
            const std::size_t fewer = cell_of(decoding(least_s[low]) * kSafe, tokens.cells);
            const std::size_t more = cell_of(decoding(most_s[high]) / kSafe, tokens.cells);
            if (fewer == low && more == high) break;
            low = fewer;
            high = more;
        }
        const double reads_s = q[i] * line[kReadS] * (1.0 - kRounding);
        const double all_s = (whole(least_s[low]) + waits_s(line, whole(most_s[high]), q[i])) * kSafe;
        token_s[i] = least_s[low];
        ttft_s[i] = std::max(all_s - answer * least_s[low], (reads_s - answer * most_s[high]) * kSafe);
        request_s[i] = std::max(all_s, reads_s);
    }
}

}  // namespace optalloc::serving
