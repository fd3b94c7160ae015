#pragma once

namespace layermerge {

// What the loops over cells and multipliers run on, on this machine: "avx512f", "avx2", or
// "baseline", what the compiler takes for granted.
const char* vector_instructions();

}  // namespace layermerge
