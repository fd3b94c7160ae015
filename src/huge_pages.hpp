#pragma once

#include <cstddef>

#if defined(__linux__)
#include <sys/mman.h>

#include <cstdint>
#endif

namespace layermerge {

constexpr std::size_t huge_page_bytes = std::size_t{1} << 21;

// Asks for the memory to lie in huge pages, which the system hands out, and takes back, a few
// hundred times faster than as many small ones. A wish: it may be refused, to no harm. Whole pages
// around the memory are named, so that what is one mapping stays one, which realloc can move.
inline void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
    constexpr std::uintptr_t page = 4096;
    const auto begin = reinterpret_cast<std::uintptr_t>(memory);
    const std::uintptr_t first = begin / page * page;
    const std::uintptr_t end = (begin + bytes + page - 1) / page * page;
    madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

}  // namespace layermerge
