// Hot loops compiled twice: for processors with AVX2, and for all.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define OPTALLOC_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define OPTALLOC_CLONES
#endif
