#include "labels.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

namespace layermerge {
namespace {

constexpr std::int64_t latest = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t nothing = std::numeric_limits<std::int64_t>::min();

constexpr std::size_t window_labels = 1 << 15;  // half a megabyte
constexpr std::size_t least_floored = 1 << 11;
constexpr int floor_bits = 12;  // 32 KiB

bool is_faster(const Label& label, std::int64_t latency_ns) {
    return label.latency_ns < latency_ns;
}

Label sum(const Label& a, const Label& b) {
    return {a.latency_ns + b.latency_ns, a.value + b.value};
}

double slack(const Label& label, const BoundLines& lines, std::size_t line) {
    return double(label.value) + lines.intercept[line] -
           lines.slope[line] * double(label.latency_ns);
}

// The least slack of labels given by rising latency.
class Slack {
 public:
    explicit Slack(const BoundLines& lines) : lines_(lines) {}

    double of(const Label& label) {
        double least = slack(label, lines_, line_);
        while (line_ + 1 < lanes) {
            const double next = slack(label, lines_, line_ + 1);
            if (next > least) break;
            least = next;
            ++line_;
        }
        return least;
    }

 private:
    const BoundLines& lines_;
    std::size_t line_ = 0;
};

}  // namespace

void LabelLists::start(std::int32_t positions, std::int32_t origin) {
    lists_.assign(std::size_t(positions), {});
    labels_.clear();
    labels_.add({0, 0});
    lists_[std::size_t(origin)] = {0, 1, {}};
}

std::size_t LabelLists::reachable(std::span<const Step> steps) const {
    std::size_t labels = 0;
    for (const Step& step : steps) labels += list(step.from).count;
    return labels;
}

bool LabelLists::extend(std::int32_t position, std::span<const Step> steps, const BoundLines* lines,
                        std::size_t width, Interrupt& interrupt) {
    start_runs(steps);
    if (runs_.empty()) return true;
    List& extended = lists_[std::size_t(position)];
    if (runs_.size() == 1) {
        extended = {runs_[0].next, runs_[0].end - runs_[0].next, runs_[0].by};
        return true;
    }
    const std::size_t begin = labels_.size();
    const bool complete = merge_all(lines, width, interrupt);
    if (!complete && lines) thin(begin, *lines, width);
    extended = {begin, labels_.size() - begin, {}};
    return complete;
}

void LabelLists::start_runs(std::span<const Step> steps) {
    runs_.clear();
    for (const Step& step : steps) {
        const List& from = list(step.from);
        if (from.count == 0) continue;
        runs_.push_back({from.begin, from.begin, from.begin + from.count, sum(from.by, step.by)});
    }
}

// Window by window, appended to the labels. False if there are more than `width`.
bool LabelLists::merge_all(const BoundLines* lines, std::size_t width, Interrupt& interrupt) {
    std::size_t labels = 0;
    std::int64_t low_ns = latest, high_ns = 0, most = nothing;
    for (const Run& run : runs_) {
        labels += run.end - run.next;
        low_ns = std::min(low_ns, labels_[run.next].latency_ns + run.by.latency_ns);
        high_ns = std::max(high_ns, labels_[run.end - 1].latency_ns + run.by.latency_ns);
    }
    const std::size_t windows = labels / window_labels + 1, begin = labels_.size();
    const std::int64_t span_ns = (high_ns - low_ns) / std::int64_t(windows) + 1;
    for (std::int64_t begin_ns = low_ns; begin_ns <= high_ns;) {
        const std::int64_t end_ns = high_ns - begin_ns < span_ns ? latest : begin_ns + span_ns;
        const std::size_t inside = open_window(end_ns);
        const bool floored = inside >= least_floored;
        if (floored) set_floor(begin_ns, std::min(end_ns, high_ns), most);
        gathered_.clear();
        ends_.clear();
        for (Run& run : runs_) {
            const std::size_t before = gathered_.size();
            floored ? gather_above_floor(run, begin_ns) : gather(run);
            if (lines) drop_hopeless(before, *lines);
            if (gathered_.size() > before) ends_.push_back(gathered_.size());
            run.next = run.stop;
        }
        merge_gathered();
        most = append_gathered(most);
        interrupt.work(64 + 8 * inside);
        if (!lines && labels_.size() - begin > width) return false;
        if (end_ns == latest) break;
        begin_ns = end_ns;
    }
    return labels_.size() - begin <= width;
}

// Labels of latencies below the end of the window.
std::size_t LabelLists::open_window(std::int64_t end_ns) {
    std::size_t inside = 0;
    for (Run& run : runs_) {
        const std::int64_t stored_ns = end_ns - run.by.latency_ns;
        const Label* const stop = std::lower_bound(labels_.data() + run.next,
                                                   labels_.data() + run.end, stored_ns, is_faster);
        run.stop = std::size_t(stop - labels_.data());
        inside += run.stop - run.next;
    }
    return inside;
}

// Of each stretch of 2^shift nanoseconds, the most that a label of an earlier one is worth.
void LabelLists::set_floor(std::int64_t begin_ns, std::int64_t end_ns, std::int64_t most) {
    const auto span_ns = std::uint64_t(end_ns - begin_ns);
    floor_shift_ = std::max(0, int(std::bit_width(span_ns)) - floor_bits);
    floor_.assign(std::size_t(span_ns >> floor_shift_) + 1, nothing);
    for (const Run& run : runs_)
        for (std::size_t k = run.next; k < run.stop; ++k) {
            const Label label = sum(labels_[k], run.by);
            std::int64_t& floor =
                floor_[std::size_t((label.latency_ns - begin_ns) >> floor_shift_)];
            floor = std::max(floor, label.value);
        }
    for (std::int64_t& floor : floor_) most = std::max(most, std::exchange(floor, most));
}

void LabelLists::gather(const Run& run) {
    Label* out = gathered_.room(run.stop - run.next);
    for (std::size_t k = run.next; k < run.stop; ++k) *out++ = sum(labels_[k], run.by);
    gathered_.added(run.stop - run.next);
}

void LabelLists::gather_above_floor(const Run& run, std::int64_t begin_ns) {
    Label* const first = gathered_.room(run.stop - run.next);
    Label* out = first;
    for (std::size_t k = run.next; k < run.stop; ++k) {
        const Label label = sum(labels_[k], run.by);
        *out = label;
        out += label.value > floor_[std::size_t((label.latency_ns - begin_ns) >> floor_shift_)];
    }
    gathered_.added(std::size_t(out - first));
}

// Of the labels gathered from `begin` on, keeps those worth extending.
void LabelLists::drop_hopeless(std::size_t begin, const BoundLines& lines) {
    Slack least(lines);
    Label* const labels = gathered_.data();
    std::size_t kept = begin;
    for (std::size_t k = begin; k < gathered_.size(); ++k) {
        const Label label = labels[k];
        labels[kept] = label;
        kept += least.of(label) >= 0;
    }
    gathered_.truncate(kept);
}

// Merges neighbouring runs until one is left.
void LabelLists::merge_gathered() {
    while (ends_.size() > 1) {
        merged_.clear();
        merged_ends_.clear();
        for (std::size_t r = 0; r < ends_.size(); r += 2) {
            const std::size_t begin = r == 0 ? 0 : ends_[r - 1];
            merge(begin, ends_[r], ends_[std::min(r + 1, ends_.size() - 1)]);
            merged_ends_.push_back(merged_.size());
        }
        std::swap(ends_, merged_ends_);
        std::swap(gathered_, merged_);
    }
}

void LabelLists::merge(std::size_t begin, std::size_t middle, std::size_t end) {
    const Label* a = gathered_.data() + begin;
    const Label* const a_end = gathered_.data() + middle;
    const Label* b = a_end;
    const Label* const b_end = gathered_.data() + end;
    Label* const first = merged_.room(end - begin);
    Label* out = first;
    std::int64_t most = nothing;
    const auto take = [&](const Label& label) {
        *out = label;
        out += label.value > most;
        most = std::max(most, label.value);
    };
    while (a != a_end && b != b_end) {
        const bool earlier = a->latency_ns < b->latency_ns ||
                             (a->latency_ns == b->latency_ns && a->value >= b->value);
        take(earlier ? *a : *b);
        a += earlier;
        b += !earlier;
    }
    while (a != a_end) take(*a++);
    while (b != b_end) take(*b++);
    merged_.added(std::size_t(out - first));
}

// Appends the gathered labels that are worth more than any earlier one; returns the most so far.
std::int64_t LabelLists::append_gathered(std::int64_t most) {
    Label* const first = labels_.room(gathered_.size());
    Label* out = first;
    for (std::size_t k = 0; k < gathered_.size(); ++k) {
        *out = gathered_[k];
        out += gathered_[k].value > most;
        most = std::max(most, gathered_[k].value);
    }
    labels_.added(std::size_t(out - first));
    return most;
}

// Of each stretch of as many labels, from `begin` on, the one of largest bound.
void LabelLists::thin(std::size_t begin, const BoundLines& lines, std::size_t width) {
    Label* const labels = labels_.data() + begin;
    const std::size_t count = labels_.size() - begin;
    Slack least(lines);
    for (std::size_t w = 0; w < width; ++w) {
        double most = -std::numeric_limits<double>::infinity();
        Label best{};
        for (std::size_t k = count * w / width; k < count * (w + 1) / width; ++k) {
            const double bound = least.of(labels[k]);
            if (bound > most) most = bound, best = labels[k];
        }
        labels[w] = best;
    }
    labels_.truncate(begin + width);
}

Label LabelLists::label(std::int32_t position, std::size_t index) const {
    const List& at = list(position);
    return sum(labels_[at.begin + index], at.by);
}

bool LabelLists::contains(std::int32_t position, Label label) const {
    const List& at = list(position);
    const Label stored{label.latency_ns - at.by.latency_ns, label.value - at.by.value};
    const Label* const begin = labels_.data() + at.begin;
    const Label* const end = begin + at.count;
    const Label* const found = std::lower_bound(begin, end, stored.latency_ns, is_faster);
    return found != end && *found == stored;
}

}  // namespace layermerge
