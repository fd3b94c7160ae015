#pragma once

#include <cstddef>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace layermerge {

// An array of doubles that nothing initialises. Large ones lie in huge pages where the system has
// them: a new array is then ready a few hundred times sooner than its pages, one by one, would be.
class CellArray {
 public:
    explicit CellArray(std::size_t cells = 0) : cells_(nullptr, Free{std::align_val_t{64}}) {
        const std::size_t bytes = cells * sizeof(double);
        const bool large = bytes >= 4 * huge_page;
        const Free free{large ? std::align_val_t{huge_page} : std::align_val_t{64}};
        cells_ = {static_cast<double*>(::operator new(bytes, free.alignment)), free};
#if defined(__linux__)
        if (large) madvise(cells_.get(), bytes, MADV_HUGEPAGE);  // a wish: it may be refused
#endif
    }

    double* data() const { return cells_.get(); }

 private:
    static constexpr std::size_t huge_page = std::size_t{1} << 21;

    struct Free {
        std::align_val_t alignment;
        void operator()(double* cells) const { ::operator delete(cells, alignment); }
    };

    std::unique_ptr<double, Free> cells_;
};

}  // namespace layermerge
