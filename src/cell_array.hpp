#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "huge_pages.hpp"

namespace layermerge {

// An array of doubles that nothing initialises, in whole cache lines; large ones in huge pages.
class CellArray {
 public:
    explicit CellArray(std::size_t cells = 0) : cells_(nullptr, Free{std::align_val_t{64}}) {
        const std::size_t bytes = cells * sizeof(double);
        const bool large = bytes >= 4 * huge_page_bytes;
        const Free free{large ? std::align_val_t{huge_page_bytes} : std::align_val_t{64}};
        cells_ = {static_cast<double*>(::operator new(bytes, free.alignment)), free};
        if (large) prefer_huge_pages(cells_.get(), bytes);
    }

    double* data() const { return cells_.get(); }

 private:
    struct Free {
        std::align_val_t alignment;
        void operator()(double* cells) const { ::operator delete(cells, alignment); }
    };

    std::unique_ptr<double, Free> cells_;
};

}  // namespace layermerge
