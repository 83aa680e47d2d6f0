// Loops outside kernels/ that are worth wide vectors but no kernel of their own: the compiler makes one copy
// of the function for each level, and the loader takes the best that the processor has.
#pragma once

// Before a function's definition. Every copy gives the same bits: without contraction and without reordered
// sums (the build allows neither) wider vectors change no result. Helpers that it calls in its loops must be
// SF_VECTOR_INLINE, or they stay what the baseline makes of them.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define SF_VECTOR_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else  // the loader chooses before a sanitizer is ready
#define SF_VECTOR_CLONES
#endif
#define SF_VECTOR_INLINE inline __attribute__((always_inline))
