#pragma once

// GCC and Clang compute on whole vectors; other compilers get single doubles, in loops that they
// may vectorise.
#if defined(__GNUC__) && !defined(LAYERMERGE_NO_VECTORS)
#define LAYERMERGE_VECTORS
#define LAYERMERGE_INLINE [[gnu::always_inline]]
#if defined(__x86_64__)
#define LAYERMERGE_DISPATCHES
#endif
#else
#define LAYERMERGE_INLINE
#endif

namespace layermerge {

#if defined(LAYERMERGE_VECTORS)
// As many doubles as fill a register. Nothing is computed on vectors that are wider than the
// machine's: compilers take their comparisons apart into single doubles.
typedef double TwoDoubles __attribute__((vector_size(16)));
typedef double FourDoubles __attribute__((vector_size(32)));
typedef double EightDoubles __attribute__((vector_size(64)));
using BaselineRegister = TwoDoubles;
#else
using BaselineRegister = double;
#endif

#if defined(LAYERMERGE_DISPATCHES)
template <class Kernel, class... Arguments>
__attribute__((target("avx512f"))) void run_on_avx512(Arguments&... arguments) {
    Kernel::template run<EightDoubles>(arguments...);
}

template <class Kernel, class... Arguments>
__attribute__((target("avx2"))) void run_on_avx2(Arguments&... arguments) {
    Kernel::template run<FourDoubles>(arguments...);
}
#endif

// Kernel::run<Register>(arguments...), to be inlined, on the widest registers that the machine has:
// one binary runs everywhere, and nowhere slower than one that is built there.
template <class Kernel, class... Arguments>
void run_on_widest(Arguments&... arguments) {
#if defined(LAYERMERGE_DISPATCHES)
    if (__builtin_cpu_supports("avx512f")) return run_on_avx512<Kernel>(arguments...);
    if (__builtin_cpu_supports("avx2")) return run_on_avx2<Kernel>(arguments...);
#endif
    Kernel::template run<BaselineRegister>(arguments...);
}

}  // namespace layermerge
