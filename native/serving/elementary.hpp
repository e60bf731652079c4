// exp and log without branches, so that loops over them are vectorised; errors of a few units in the last place.
#pragma once

#include <bit>
#include <cstdint>

#if defined(__GNUC__)
#define OPTALLOC_INLINE inline __attribute__((always_inline))
#else
#define OPTALLOC_INLINE inline
#endif

namespace optalloc::serving {

constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;  // log 2, the first with zeros to spare
constexpr double kWhole = 0x1.8p52;  // a double plus this ends in its whole part, as a two's complement number

// e^x for x in [-700, 700].
OPTALLOC_INLINE double exp_of(double x) {
    const double shifted = x * 0x1.71547652b82fep0 + kWhole, k = shifted - kWhole;
    const double r = (x - k * kLn2High) - k * kLn2Low;  // at most (log 2) / 2
    const double r2 = r * r, r4 = r2 * r2;  // Taylor to r^13, in pairs that do not wait for each other
    const double a = (0.5 + r * (1.0 / 6.0)) + r2 * (1.0 / 24.0 + r * (1.0 / 120.0));
    const double b = (1.0 / 720.0 + r * (1.0 / 5040.0)) + r2 * (1.0 / 40320.0 + r * (1.0 / 362880.0));
    const double c = (1.0 / 3628800.0 + r * (1.0 / 39916800.0)) + r2 * (1.0 / 479001600.0 + r * (1.0 / 6227020800.0));
    const double sum = r + r2 * (a + r4 * (b + r4 * c));
    const std::uint64_t power = (std::bit_cast<std::uint64_t>(shifted) + 1023u) << 52;
    return (sum + 1.0) * std::bit_cast<double>(power);
}

// log x for x in [1e-300, 1e300].
OPTALLOC_INLINE double log_of(double x) {
    constexpr std::uint64_t root = 0x3fe6a09e00000000u, bias = 1024u;
    const std::uint64_t bits = std::bit_cast<std::uint64_t>(x), up = bits - root + (bias << 52);
    const std::uint64_t power = up >> 52;  // that of x = m 2^k with m from sqrt(1/2) on, and the bias
    const double k = std::bit_cast<double>(power + 0x4330000000000000u) - (0x1p52 + 1024.0);
    const double m = std::bit_cast<double>(bits - ((power - bias) << 52));
    const double f = m - 1.0, s = f / (2.0 + f), z = s * s;  // log m = 2 atanh s, |s| < 0.172
    const double z2 = z * z, z4 = z2 * z2;
    const double a = (2.0 / 3.0 + z * (2.0 / 5.0)) + z2 * (2.0 / 7.0 + z * (2.0 / 9.0));
    const double b = (2.0 / 11.0 + z * (2.0 / 13.0)) + z2 * (2.0 / 15.0 + z * (2.0 / 17.0));
    const double c = (2.0 / 19.0 + z * (2.0 / 21.0)) + z2 * (2.0 / 23.0);
    const double sum = a + z4 * (b + z4 * c);
    return k * kLn2High + (2.0 * s + (s * z * sum + k * kLn2Low));
}

}  // namespace optalloc::serving
