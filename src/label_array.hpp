#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "huge_pages.hpp"

namespace layermerge {

// What a partial path costs and earns, in nanoseconds and in units of value: exact integers.
struct Label {
    std::int64_t latency_ns;
    std::int64_t value;

    bool operator==(const Label&) const = default;
};

// A growing array of labels. Unlike a vector it initialises nothing, and large arrays grow by
// moving pages, not labels: nothing takes long that cannot be interrupted.
class LabelArray {
 public:
    std::size_t size() const { return size_; }
    Label* data() { return labels_.get(); }
    const Label* data() const { return labels_.get(); }
    const Label& operator[](std::size_t index) const { return labels_.get()[index]; }

    void clear() { size_ = 0; }
    void truncate(std::size_t size) { size_ = size; }

    // Where the next labels go, with room for so many; pointers to the array are no longer valid.
    Label* room(std::size_t labels) {
        if (size_ + labels > capacity_) grow(size_ + labels);
        return labels_.get() + size_;
    }
    // Of the room, so many labels were written.
    void added(std::size_t labels) { size_ += labels; }
    void add(const Label& label) {
        *room(1) = label;
        added(1);
    }

 private:
    struct Free {
        void operator()(Label* labels) const { std::free(labels); }
    };

    void grow(std::size_t least) {
        const std::size_t capacity = least < 2 * capacity_ ? 2 * capacity_ : least;
        auto* const moved =
            static_cast<Label*>(std::realloc(labels_.get(), capacity * sizeof(Label)));
        if (!moved) throw std::bad_alloc();
        static_cast<void>(labels_.release());
        labels_.reset(moved);
        capacity_ = capacity;
        if (capacity * sizeof(Label) >= 4 * huge_page_bytes)
            prefer_huge_pages(moved, capacity * sizeof(Label));
    }

    std::unique_ptr<Label, Free> labels_;
    std::size_t size_ = 0, capacity_ = 0;
};

}  // namespace layermerge
