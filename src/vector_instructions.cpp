#include "vector_instructions.hpp"

#include "registers.hpp"

namespace layermerge {

const char* vector_instructions() {
#if defined(LAYERMERGE_DISPATCHES)
    if (__builtin_cpu_supports("avx512f")) return "avx512f";
    if (__builtin_cpu_supports("avx2")) return "avx2";
#endif
    return "baseline";
}

}  // namespace layermerge
