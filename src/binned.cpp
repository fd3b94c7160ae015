#include "binned.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "max_plus.hpp"
#include "text.hpp"

namespace layermerge {
namespace {

constexpr std::int64_t unreachable = std::numeric_limits<std::int64_t>::max();
constexpr double nothing = -std::numeric_limits<double>::infinity();

std::int64_t in_bins(std::int64_t ns, const BinnedOptions& options) {
    const bool partial = options.rounding == Rounding::up && ns % options.bin_ns != 0;
    return ns / options.bin_ns + (partial ? 1 : 0);
}

// A position's row covers the bins that some path from 0 reaches and that leave enough of the
// budget to reach the last position.
struct Row {
    std::int64_t low = 0;
    std::int64_t high = -1;
    std::size_t offset = 0;

    std::size_t size() const { return high < low ? 0 : std::size_t(high - low) + 1; }
};

class BinnedTable {
 public:
    BinnedTable(const Problem& problem, std::int64_t budget_ns, const BinnedOptions& options)
        : problem_(problem), options_(options), rows_(std::size_t(problem.last_position()) + 1) {
        bins_.reserve(problem.arc_count());
        for (std::int32_t j = 1; j <= problem.last_position(); ++j)
            for (const std::int64_t ns : problem.incoming(j).latency_ns)
                bins_.push_back(in_bins(ns, options));
        lay_out_rows(budget_ns);
    }

    void fill(Interrupt& interrupt);
    std::vector<std::size_t> best_path(Interrupt& interrupt) const;

 private:
    // The step from a position and a bin to the last position: over fewest arcs, then least id.
    struct Step {
        std::int64_t bin;
        std::int32_t arcs_to_go;
        std::int32_t id;
        std::size_t arc;
        std::int32_t head;

        auto order() const { return std::tie(bin, arcs_to_go, id); }
    };
    using Steps = std::vector<std::vector<Step>>;  // by position, then by bin

    void lay_out_rows(std::int64_t budget_ns);
    void set_lows_and_highs(std::int64_t budget_ns);
    [[noreturn]] void refuse_budget(std::int64_t budget_ns, std::int64_t least_bins) const;
    [[noreturn]] void refuse_size() const;
    void fill_tile(std::int32_t head, std::int64_t begin, std::int64_t end);
    void add_steps_into(std::int32_t head, Steps& steps, Interrupt& interrupt) const;

    double* cell(const Row& row, std::int64_t bin) const {
        return cells_.get() + row.offset + std::size_t(bin - row.low);
    }

    const Problem& problem_;
    const BinnedOptions& options_;
    std::vector<std::int64_t> bins_;  // latency of each arc, by (head, tail, id)
    std::vector<Row> rows_;
    std::unique_ptr<double[]> cells_;
};

void BinnedTable::set_lows_and_highs(std::int64_t budget_ns) {
    const std::int32_t last = problem_.last_position();
    std::vector<std::int64_t> least_to(rows_.size(), unreachable), most_to(rows_.size(), 0);
    std::vector<std::int64_t> least_from(rows_.size(), unreachable);
    least_to.front() = least_from.back() = 0;
    for (std::int32_t j = 1; j <= last; ++j) {
        const IncomingArcs in = problem_.incoming(j);
        const std::int64_t* bins = bins_.data() + problem_.first_incoming(j);
        for (std::size_t a = 0; a < in.size(); ++a) {
            const std::size_t i = std::size_t(in.tail[a]), to = std::size_t(j);
            if (least_to[i] == unreachable) continue;
            least_to[to] = std::min(least_to[to], least_to[i] + bins[a]);
            most_to[to] = std::max(most_to[to], most_to[i] + bins[a]);
        }
    }
    for (std::int32_t j = last; j >= 1; --j) {
        if (least_from[std::size_t(j)] == unreachable) continue;
        const IncomingArcs in = problem_.incoming(j);
        const std::int64_t* bins = bins_.data() + problem_.first_incoming(j);
        for (std::size_t a = 0; a < in.size(); ++a) {
            std::int64_t& least = least_from[std::size_t(in.tail[a])];
            least = std::min(least, least_from[std::size_t(j)] + bins[a]);
        }
    }
    // A budget beyond the slowest path buys nothing.
    const std::int64_t budget = std::min(budget_ns / options_.bin_ns, most_to.back());
    if (budget < least_to.back()) refuse_budget(budget_ns, least_to.back());
    for (std::size_t j = 0; j < rows_.size(); ++j)
        if (least_to[j] != unreachable && least_from[j] != unreachable) {
            rows_[j].low = least_to[j];
            rows_[j].high = budget - least_from[j];
        }
}

void BinnedTable::refuse_budget(std::int64_t budget_ns, std::int64_t least_bins) const {
    const bool up = options_.rounding == Rounding::up;
    const std::int64_t least_ns = problem_.least_latency_ns();
    const std::string counted =
        least_bins <= unreachable / options_.bin_ns
            ? text("; in bins of ", milliseconds(options_.bin_ns), ", rounded ", up ? "up" : "down",
                   ", it counts as ", milliseconds(least_bins * options_.bin_ns))
            : "";
    throw InfeasibleError(
        text("no plan meets the budget of ", milliseconds(budget_ns),
             ": the least achievable latency is ", milliseconds(least_ns), counted,
             ". Raise the budget", up && least_ns <= budget_ns ? " or use smaller bins" : "",
             up ? "" : " to at least the least achievable latency"),
        least_ns);
}

void BinnedTable::lay_out_rows(std::int64_t budget_ns) {
    set_lows_and_highs(budget_ns);
    const std::size_t limit = options_.memory_limit_bytes / sizeof(double);
    std::size_t cells = 0;
    for (Row& row : rows_) {
        row.offset = cells;
        cells += row.size();  // at most 2^24 rows of at most 2^63 / bin_ns cells
        if (cells > limit) refuse_size();
    }
    cells_ = std::make_unique_for_overwrite<double[]>(cells);
}

void BinnedTable::refuse_size() const {
    double bytes = 0;
    for (const Row& row : rows_) bytes += double(row.size()) * sizeof(double);
    const double limit = double(std::max<std::size_t>(options_.memory_limit_bytes, 1));
    throw std::invalid_argument(text(
        "the binned solver's table would take ", bytes / 1e6, " MB, above memory_limit_bytes = ",
        limit / 1e6, " MB: use bins ", std::ceil(bytes / limit), " times as large (bin_ns is ",
        options_.bin_ns, ", ", milliseconds(options_.bin_ns), "), or raise memory_limit_bytes"));
}

void BinnedTable::fill(Interrupt& interrupt) {
    constexpr std::int64_t tile = 2048;  // 16 KiB: stays in the first-level cache over all arcs
    std::fill_n(cells_.get(), rows_.front().size(), 0.0);
    for (std::int32_t j = 1; j <= problem_.last_position(); ++j) {
        const Row& row = rows_[std::size_t(j)];
        for (std::int64_t begin = row.low; begin <= row.high; begin += tile) {
            const std::int64_t end = std::min(begin + tile, row.high + 1);
            fill_tile(j, begin, end);
            interrupt.work(std::size_t(end - begin) * (1 + problem_.incoming(j).size()));
        }
    }
}

void BinnedTable::fill_tile(std::int32_t head, std::int64_t begin, std::int64_t end) {
    const IncomingArcs in = problem_.incoming(head);
    const std::int64_t* bins = bins_.data() + problem_.first_incoming(head);
    const Row& row = rows_[std::size_t(head)];
    std::fill(cell(row, begin), cell(row, end), nothing);
    for (std::size_t a = 0; a < in.size(); ++a) {
        const Row& before = rows_[std::size_t(in.tail[a])];
        if (before.size() == 0) continue;
        // before.high + bins >= row.high, as the tail is at most this arc further from the end.
        const std::int64_t from = std::max(begin, before.low + bins[a]);
        if (from < end)
            max_plus(cell(row, from), cell(before, from - bins[a]), in.value[a],
                     std::size_t(end - from));
    }
}

// Extends every step list at the arcs' tails by the arcs that attain the head's cells exactly: the
// sums are recomputed in the same order, so equality is exact.
void BinnedTable::add_steps_into(std::int32_t head, Steps& steps, Interrupt& interrupt) const {
    const IncomingArcs in = problem_.incoming(head);
    const std::size_t first = problem_.first_incoming(head);
    const Row& row = rows_[std::size_t(head)];
    for (std::size_t a = 0; a < in.size(); ++a) {
        const Row& before = rows_[std::size_t(in.tail[a])];
        if (before.size() == 0) continue;
        for (const Step& step : steps[std::size_t(head)]) {
            const std::int64_t bin = step.bin - bins_[first + a];
            if (bin >= before.low && *cell(before, bin) + in.value[a] == *cell(row, step.bin))
                steps[std::size_t(in.tail[a])].push_back(
                    {bin, step.arcs_to_go + 1, in.id[a], first + a, head});
        }
        interrupt.work(steps[std::size_t(head)].size());
    }
}

// Walks back from the last position through all optimal paths at once, keeping at each cell the
// best step onwards, then forward along the best steps. Only cells where M[j, t] > M[j, t - 1] are
// met, since the walk starts at the fewest bins: so it ends at bin 0 of position 0.
std::vector<std::size_t> BinnedTable::best_path(Interrupt& interrupt) const {
    const std::int32_t last = problem_.last_position();
    const Row& row = rows_.back();
    const double* fewest_bins =
        std::lower_bound(cell(row, row.low), cell(row, row.high), *cell(row, row.high));
    Steps steps(rows_.size());
    steps.back().push_back({row.low + (fewest_bins - cell(row, row.low)), 0, 0, 0, last});
    for (std::int32_t j = last; j >= 1; --j) {
        add_steps_into(j, steps, interrupt);
        std::vector<Step>& before = steps[std::size_t(j) - 1];
        std::sort(before.begin(), before.end(),
                  [](const Step& a, const Step& b) { return a.order() < b.order(); });
        before.erase(std::unique(before.begin(), before.end(),
                                 [](const Step& a, const Step& b) { return a.bin == b.bin; }),
                     before.end());
    }
    std::vector<std::size_t> path;
    std::int64_t bin = 0;
    for (std::int32_t j = 0; j != last;) {
        const std::vector<Step>& from = steps[std::size_t(j)];
        const auto step = std::lower_bound(from.begin(), from.end(), bin,
                                           [](const Step& s, std::int64_t b) { return s.bin < b; });
        path.push_back(step->arc);
        bin += bins_[step->arc];
        j = step->head;
    }
    return path;
}

}  // namespace

Path solve_binned(const Problem& problem, std::int64_t budget_ns, const BinnedOptions& options,
                  Interrupt interrupt) {
    if (budget_ns < 0) throw std::invalid_argument(text("budget_ns must be >= 0, got ", budget_ns));
    if (options.bin_ns < 1)
        throw std::invalid_argument(text("bin_ns must be >= 1, got ", options.bin_ns));
    BinnedTable table(problem, budget_ns, options);
    table.fill(interrupt);
    return problem.path(table.best_path(interrupt));
}

}  // namespace layermerge
