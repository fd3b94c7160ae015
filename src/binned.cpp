#include "binned.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "binned_arcs.hpp"
#include "cell_array.hpp"
#include "huge_pages.hpp"
#include "max_plus.hpp"
#include "text.hpp"

namespace layermerge {
namespace {

constexpr std::int64_t unreachable = std::numeric_limits<std::int64_t>::max();
constexpr double nothing = -std::numeric_limits<double>::infinity();

// Bins are filled tile by tile over all positions, so that the rows that a tile reads, a few tiles
// of as many positions as an arc spans, are still in the second-level cache.
constexpr std::int64_t tile = 4096;
constexpr std::int64_t block = std::int64_t{max_plus_block};
static_assert(tile % block == 0);
constexpr std::int64_t max_updates = 1 << 24;  // milliseconds of work between interrupts

std::int64_t block_of(std::int64_t bin) {
    return bin / block * block;
}

// A position's row covers the bins at which some path from 0 arrives and from which some path uses
// up the budget: [max(least_to, budget - most_from), budget - least_from]. From `flat` on, its
// cells are equal: every path has arrived. It is stored in whole blocks, behind one block of minus
// infinity: whole blocks can be computed from any others, and what is below `low` counts for
// nothing above.
struct Row {
    std::int64_t low = 0;
    std::int64_t high = -1;
    std::int64_t flat = 0;
    std::size_t offset = 0;  // of the cell of bin begin()

    bool empty() const { return high < low; }
    std::int64_t begin() const { return block_of(low); }
    std::int64_t end() const { return block_of(high) + block; }
    std::int64_t rising_end() const { return block_of(std::min(high, flat)) + block; }
};

// Bins on the fastest and on the slowest path between a position and an end of the axis.
struct Extremes {
    std::int64_t least = unreachable;
    std::int64_t most = 0;

    void extend(const Extremes& other, std::int64_t bins) {
        if (other.least == unreachable) return;
        least = std::min(least, other.least + bins);
        most = std::max(most, other.most + bins);
    }
};

class BinnedTable {
 public:
    BinnedTable(const Problem& problem, std::int64_t budget_ns, const BinnedOptions& options,
                Interrupt& interrupt)
        : problem_(problem),
          options_(options),
          arcs_(problem, options, interrupt),
          rows_(std::size_t(problem.last_position()) + 1) {
        set_bounds(budget_ns, interrupt);
        lay_out_rows();
    }

    void fill(Interrupt& interrupt);
    std::vector<std::size_t> best_path(Interrupt& interrupt) const;
    std::size_t updates() const { return updates_; }

 private:
    // The step from a position and a bin to the last position: over fewest arcs, then least id.
    struct Step {
        std::int64_t bin;
        std::int32_t arcs_to_go;
        std::int32_t id;
        std::size_t index;
        std::int64_t bins;
        std::int32_t head;

        auto order() const { return std::tie(bin, arcs_to_go, id); }
    };
    using Steps = std::vector<std::vector<Step>>;  // by position, then by bin

    // A term that counts from a later bin of the tile on.
    struct LateTerm {
        std::int64_t from;
        MaxPlusTerm term;
    };

    void set_bounds(std::int64_t budget_ns, Interrupt& interrupt);
    void set_cells(const Row& row, std::int64_t begin, std::int64_t end, double to,
                   Interrupt& interrupt);
    void lay_out_rows();
    [[noreturn]] void refuse_budget(std::int64_t budget_ns, std::int64_t least_bins) const;
    [[noreturn]] void refuse_size() const;
    std::int64_t tile_width(std::int64_t span) const;
    void fill_rows(std::int64_t begin, std::int64_t end, Interrupt& interrupt);
    void fill_rising(std::int32_t head, std::int64_t begin, std::int64_t end, Interrupt& interrupt);
    void gather_terms(std::int32_t head, std::int64_t begin, std::int64_t end);
    void add_steps_into(std::int32_t head, Steps& steps, Interrupt& interrupt) const;

    double* cell(const Row& row, std::int64_t bin) const {
        return cells_.data() + std::ptrdiff_t(row.offset) + (bin - row.begin());
    }

    const Problem& problem_;
    const BinnedOptions& options_;
    const BinnedArcs arcs_;
    std::vector<Row> rows_;
    CellArray cells_;
    std::vector<MaxPlusTerm> terms_;
    std::vector<LateTerm> late_terms_;
    std::size_t updates_ = 0;
};

void BinnedTable::set_bounds(std::int64_t budget_ns, Interrupt& interrupt) {
    const std::int32_t last = problem_.last_position();
    std::vector<Extremes> to(rows_.size()), from(rows_.size());
    to.front().least = from.back().least = 0;
    for (std::int32_t j = 1; j <= last; ++j) {
        for (const BinnedArc& arc : arcs_.into(j))
            to[std::size_t(j)].extend(to[std::size_t(arc.tail)], arc.bins);
        interrupt.work(8 * arcs_.into(j).size());
    }
    for (std::int32_t j = last; j >= 1; --j) {
        for (const BinnedArc& arc : arcs_.into(j))
            from[std::size_t(arc.tail)].extend(from[std::size_t(j)], arc.bins);
        interrupt.work(8 * arcs_.into(j).size());
    }
    // A budget beyond the slowest path buys nothing.
    const std::int64_t budget = std::min(budget_ns / options_.bin_ns, to.back().most);
    if (budget < to.back().least) refuse_budget(budget_ns, to.back().least);
    for (std::size_t j = 0; j < rows_.size(); ++j)
        if (to[j].least != unreachable && from[j].least != unreachable) {
            rows_[j].low = std::max(to[j].least, budget - from[j].most);
            rows_[j].high = budget - from[j].least;
            rows_[j].flat = std::max(rows_[j].low, to[j].most);
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

void BinnedTable::lay_out_rows() {
    const std::size_t limit = options_.memory_limit_bytes / sizeof(double);
    std::size_t cells = 0;
    for (Row& row : rows_) {
        if (row.empty()) continue;
        row.offset = cells + std::size_t(block);
        cells =
            row.offset + std::size_t(row.end() - row.begin());  // at most 2^24 times 2^63 / bin_ns
        if (cells > limit) refuse_size();
    }
    cells_ = CellArray(cells);
}

void BinnedTable::refuse_size() const {
    double bytes = 0;
    for (const Row& row : rows_)
        if (!row.empty()) bytes += (double(row.high) - double(row.low) + block) * sizeof(double);
    const double limit = double(std::max<std::size_t>(options_.memory_limit_bytes, 1));
    throw std::invalid_argument(text(
        "the binned solver's table would take ", bytes / 1e6, " MB, above the memory limit of ",
        limit / 1e6, " MB: use bins ", std::ceil(bytes / limit), " times as wide (bin_ns; now ",
        milliseconds(options_.bin_ns), "), or raise memory_limit_bytes"));
}

void BinnedTable::set_cells(const Row& row, std::int64_t begin, std::int64_t end, double to,
                            Interrupt& interrupt) {
    double* const cells = cell(row, begin);
    interrupt.in_stretches(std::size_t(end - begin), 1, [&](std::size_t first, std::size_t last) {
        std::fill(cells + first, cells + last, to);
    });
}

void BinnedTable::fill(Interrupt& interrupt) {
    std::int64_t begin = unreachable, end = 0;
    for (const Row& row : rows_) {
        if (row.empty()) continue;
        std::fill_n(cell(row, row.begin() - block), block, nothing);
        interrupt.work(huge_page_bytes /
                       sizeof(double));  // which the system clears at the first use
        begin = std::min(begin, row.begin());
        end = std::max(end, row.end());
    }
    const Row& origin = rows_.front();
    set_cells(origin, origin.begin(), origin.low, nothing, interrupt);
    set_cells(origin, origin.low, origin.end(), 0, interrupt);
    const std::int64_t width = tile_width(end - begin);
    for (; begin < end; begin += width) fill_rows(begin, begin + width, interrupt);
}

// Whole rows at once where tiles would find next to nothing: short rows along a long diagonal.
std::int64_t BinnedTable::tile_width(std::int64_t span) const {
    double visits = 0, row_tiles = 0;
    for (const Row& row : rows_) {
        visits += double(span / tile + 1);
        if (!row.empty()) row_tiles += double((row.end() - row.begin()) / tile + 1);
    }
    return visits > 32 * row_tiles ? span : tile;
}

void BinnedTable::fill_rows(std::int64_t begin, std::int64_t end, Interrupt& interrupt) {
    for (std::int32_t j = 1; j <= problem_.last_position(); ++j) {
        const Row& row = rows_[std::size_t(j)];
        if (row.empty() || row.begin() >= end || row.end() <= begin) continue;
        const std::int64_t rising_end = std::min(row.rising_end(), end);
        const std::int64_t first = std::max(row.begin(), begin);
        if (first < rising_end) fill_rising(j, first, rising_end, interrupt);
        const std::int64_t flat = std::max(first, rising_end), row_end = std::min(row.end(), end);
        if (flat < row_end)
            set_cells(row, flat, row_end, *cell(row, row.rising_end() - 1), interrupt);
    }
}

// Whole blocks [begin, end) of a row, in stretches over which the same terms count.
void BinnedTable::fill_rising(std::int32_t head, std::int64_t begin, std::int64_t end,
                              Interrupt& interrupt) {
    gather_terms(head, begin, end);
    double* const best = cell(rows_[std::size_t(head)], begin);
    auto late = late_terms_.begin();
    for (std::int64_t first = begin; first < end;) {
        for (; late != late_terms_.end() && late->from <= first; ++late)
            terms_.push_back(late->term);
        const auto terms = std::int64_t(terms_.size()) + 1;
        const std::int64_t most = block_of(max_updates / terms) + block;
        const std::int64_t next = late == late_terms_.end() ? end : late->from;
        const std::int64_t last = std::min(next, first + most);
        max_plus(best, cells_.data(), terms_, std::size_t(first - begin),
                 std::size_t(last - begin));
        updates_ += terms_.size() * std::size_t(last - first);
        interrupt.work(std::size_t(terms * (last - first)) / 8);
        first = last;
    }
}

// The terms that count somewhere in the tile: those that do all over it, and the others.
void BinnedTable::gather_terms(std::int32_t head, std::int64_t begin, std::int64_t end) {
    terms_.clear();
    late_terms_.clear();
    for (const BinnedArc& arc : arcs_.into(head)) {
        const Row& before = rows_[std::size_t(arc.tail)];
        if (before.empty()) continue;
        // before.high + bins >= row.high, as the tail is at most this arc further from the end.
        const std::int64_t from = block_of(before.low + arc.bins);
        const std::int64_t offset = std::int64_t(before.offset) + begin - arc.bins - before.begin();
        if (from <= begin)
            terms_.push_back({offset, arc.value});
        else if (from < end)
            late_terms_.push_back({from, {offset, arc.value}});
    }
    std::sort(late_terms_.begin(), late_terms_.end(),
              [](const LateTerm& a, const LateTerm& b) { return a.from < b.from; });
}

// Extends every step list at the arcs' tails by the arcs that attain the head's cells exactly: the
// sums are recomputed in the same order, so equality is exact.
void BinnedTable::add_steps_into(std::int32_t head, Steps& steps, Interrupt& interrupt) const {
    const Row& row = rows_[std::size_t(head)];
    const std::vector<Step>& onwards = steps[std::size_t(head)];
    for (const BinnedArc& arc : arcs_.into(head)) {
        const Row& before = rows_[std::size_t(arc.tail)];
        if (before.empty()) continue;
        for (const Step& step : onwards) {
            const std::int64_t bin = step.bin - arc.bins;
            if (bin >= before.low && *cell(before, bin) + arc.value == *cell(row, step.bin))
                steps[std::size_t(arc.tail)].push_back(
                    {bin, step.arcs_to_go + 1, arc.id, arc.index, arc.bins, head});
        }
        interrupt.work(4 * onwards.size());
    }
}

// Walks back from the last position through all optimal paths at once, keeping at each cell the
// best step onwards; then forward along the best steps, from the most bins that any of them leaves
// unused.
std::vector<std::size_t> BinnedTable::best_path(Interrupt& interrupt) const {
    const std::int32_t last = problem_.last_position();
    Steps steps(rows_.size());
    steps.back().push_back({rows_.back().high, 0, 0, 0, 0, last});
    for (std::int32_t j = last; j >= 1; --j) {
        add_steps_into(j, steps, interrupt);
        std::vector<Step>& before = steps[std::size_t(j) - 1];
        std::sort(before.begin(), before.end(), [&interrupt](const Step& a, const Step& b) {
            interrupt.work(1);
            return a.order() < b.order();
        });
        before.erase(std::unique(before.begin(), before.end(),
                                 [](const Step& a, const Step& b) { return a.bin == b.bin; }),
                     before.end());
    }
    std::vector<std::size_t> path;
    std::int64_t bin = steps.front().back().bin;
    for (std::int32_t j = 0; j != last;) {
        const std::vector<Step>& from = steps[std::size_t(j)];
        const auto step = std::lower_bound(from.begin(), from.end(), bin,
                                           [](const Step& s, std::int64_t b) { return s.bin < b; });
        path.push_back(step->index);
        bin += step->bins;
        j = step->head;
    }
    return path;
}

}  // namespace

BinnedSolution solve_binned(const Problem& problem, std::int64_t budget_ns,
                            const BinnedOptions& options, Interrupt interrupt) {
    if (budget_ns < 0) throw std::invalid_argument(text("budget_ns must be >= 0, got ", budget_ns));
    if (options.bin_ns < 1)
        throw std::invalid_argument(text("bin_ns must be >= 1, got ", options.bin_ns));
    BinnedTable table(problem, budget_ns, options, interrupt);
    table.fill(interrupt);
    return {problem.path(table.best_path(interrupt)), table.updates()};
}

}  // namespace layermerge
