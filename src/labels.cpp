#include "labels.hpp"

#include <algorithm>
#include <limits>

namespace layermerge {
namespace {

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
    labels_.assign(1, {});
    lists_[std::size_t(origin)] = {0, 1, {}};
}

std::size_t LabelLists::reachable(std::span<const Step> steps) const {
    std::size_t labels = 0;
    for (const Step& step : steps) labels += list(step.from).count;
    return labels;
}

bool LabelLists::extend(std::int32_t position, std::span<const Step> steps, const BoundLines* lines,
                        std::size_t width) {
    const Step* only = nullptr;
    std::size_t live = 0;
    for (const Step& step : steps)
        if (list(step.from).count > 0) only = &step, ++live;
    if (live == 0) return true;
    List& extended = lists_[std::size_t(position)];
    if (live == 1) {
        const List& from = list(only->from);
        extended = {from.begin, from.count, sum(from.by, only->by)};
        return true;
    }
    gathered_.clear();
    runs_.clear();
    for (const Step& step : steps)
        if (list(step.from).count > 0)
            gather(list(step.from), sum(list(step.from).by, step.by), lines);
    merge_runs();
    const bool complete = gathered_.size() <= width;
    if (!complete) thin(lines, width);
    extended = {labels_.size(), gathered_.size(), {}};
    labels_.insert(labels_.end(), gathered_.begin(), gathered_.end());
    return complete;
}

void LabelLists::gather(const List& from, const Label& by, const BoundLines* lines) {
    const std::span<const Label> labels = std::span(labels_).subspan(from.begin, from.count);
    if (lines) {
        Slack least(*lines);
        for (const Label& each : labels) {
            const Label label = sum(each, by);
            if (least.of(label) >= 0) gathered_.push_back(label);
        }
    } else {
        for (const Label& each : labels) gathered_.push_back(sum(each, by));
    }
    if (gathered_.size() > (runs_.empty() ? 0 : runs_.back())) runs_.push_back(gathered_.size());
}

// Merges neighbouring runs until one is left.
void LabelLists::merge_runs() {
    while (runs_.size() > 1) {
        merged_.clear();
        std::vector<std::size_t> ends;
        for (std::size_t r = 0; r < runs_.size(); r += 2) {
            const std::size_t begin = r == 0 ? 0 : runs_[r - 1];
            merge(begin, runs_[r], runs_[std::min(r + 1, runs_.size() - 1)]);
            ends.push_back(merged_.size());
        }
        runs_.swap(ends);
        gathered_.swap(merged_);
    }
}

void LabelLists::merge(std::size_t begin, std::size_t middle, std::size_t end) {
    const Label* a = gathered_.data() + begin;
    const Label* const a_end = gathered_.data() + middle;
    const Label* b = a_end;
    const Label* const b_end = gathered_.data() + end;
    const std::size_t before = merged_.size();
    merged_.resize(before + (end - begin));
    Label* out = merged_.data() + before;
    std::int64_t most = std::numeric_limits<std::int64_t>::min();
    const auto take = [&](const Label& label) {
        *out = label;
        out += label.value > most;
        most = std::max(most, label.value);
    };
    while (a != a_end && b != b_end) {
        const bool first = a->latency_ns < b->latency_ns ||
                           (a->latency_ns == b->latency_ns && a->value >= b->value);
        take(first ? *a : *b);
        a += first;
        b += !first;
    }
    while (a != a_end) take(*a++);
    while (b != b_end) take(*b++);
    merged_.resize(std::size_t(out - merged_.data()));
}

// Of each stretch of as many labels, the one of largest bound.
void LabelLists::thin(const BoundLines* lines, std::size_t width) {
    const std::size_t count = gathered_.size();
    std::size_t kept = 0;
    Slack least(*lines);
    for (std::size_t w = 0; w < width; ++w) {
        double most = -std::numeric_limits<double>::infinity();
        Label best{};
        for (std::size_t k = count * w / width; k < count * (w + 1) / width; ++k) {
            const double bound = least.of(gathered_[k]);
            if (bound > most) most = bound, best = gathered_[k];
        }
        gathered_[kept++] = best;
    }
    gathered_.resize(kept);
}

Label LabelLists::label(std::int32_t position, std::size_t index) const {
    const List& at = list(position);
    return sum(labels_[at.begin + index], at.by);
}

bool LabelLists::contains(std::int32_t position, Label label) const {
    const List& at = list(position);
    const Label stored{label.latency_ns - at.by.latency_ns, label.value - at.by.value};
    const std::span<const Label> labels = std::span(labels_).subspan(at.begin, at.count);
    const auto found = std::lower_bound(
        labels.begin(), labels.end(), stored,
        [](const Label& a, const Label& b) { return a.latency_ns < b.latency_ns; });
    return found != labels.end() && *found == stored;
}

}  // namespace layermerge
