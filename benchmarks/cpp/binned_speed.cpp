// How close the binned solver comes to what this machine can do at most: updates
// best[t] = max(best[t], before[t - s] + value) per second, in whole solves and in first-level
// cache.
//
// Prints one CSV line per problem. Usage: binned_speed
#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <random>
#include <span>
#include <vector>

#include "binned.hpp"
#include "max_plus.hpp"
#include "registers.hpp"

using namespace layermerge;

namespace {

struct Size {
    std::int32_t positions, window, options;
    std::int64_t bins;
};

constexpr Size sizes[] = {
    {32, 8, 4, 1'000},     {32, 8, 4, 10'000},    {32, 8, 4, 100'000},    {100, 16, 3, 1'000},
    {100, 16, 3, 10'000},  {100, 16, 3, 100'000}, {300, 16, 9, 1'000},    {300, 16, 9, 10'000},
    {300, 16, 9, 100'000}, {1'000, 32, 9, 1'000}, {1'000, 32, 9, 10'000}, {1'000, 32, 9, 100'000},
};

// As the family "easy" of tests/families.py.
Problem make_problem(const Size& size) {
    std::mt19937 random(0);
    const auto uniform = [&](double low, double high) {
        return std::uniform_real_distribution<double>(low, high)(random);
    };
    std::vector<double> boundary(std::size_t(size.positions) + 1, 0.0);
    for (std::size_t j = 1; j < boundary.size(); ++j)
        boundary[j] = boundary[j - 1] + uniform(0.5, 1.5);
    std::vector<std::int32_t> tail, head;
    std::vector<std::int64_t> latency_ns;
    std::vector<double> value;
    for (std::int32_t j = 1; j <= size.positions; ++j)
        for (std::int32_t layers = 1; layers <= std::min(size.window, j); ++layers)
            for (std::int32_t k = 0; k < size.options; ++k) {
                tail.push_back(j - layers);
                head.push_back(j);
                const double work = boundary[std::size_t(j)] - boundary[std::size_t(j - layers)];
                const double ms = std::pow(work, 0.8) * (1 + 0.35 * k) * uniform(0.9, 1.1);
                latency_ns.push_back(std::llround(ms * 1e6));
                const double missing = double(size.options - 1 - k) / size.options;
                value.push_back(std::exp(-0.08 * (layers - 1) * uniform(0.5, 1.5) -
                                         0.12 * missing * uniform(0.3, 1.7)));
            }
    return Problem(tail, head, latency_ns, value);
}

// The least time of several calls.
template <class Function>
double seconds(double at_most_in_all, Function function) {
    using Clock = std::chrono::steady_clock;
    const auto took = [](Clock::time_point began) {
        return std::chrono::duration<double>(Clock::now() - began).count();
    };
    double least = 1e9;
    for (const auto start = Clock::now(); took(start) < at_most_in_all;) {
        const auto began = Clock::now();
        function();
        least = std::min(least, took(began));
    }
    return least;
}

struct Update {
    template <class Register>
    LAYERMERGE_INLINE static void run(double* __restrict best, const double* __restrict before,
                                      double value, std::size_t count) {
        for (std::size_t t = 0; t < count; ++t) {
            const double sum = before[t] + value;
            best[t] = sum > best[t] ? sum : best[t];
        }
    }
};

void update(double* best, const double* before, double value, std::size_t count) {
    run_on_widest<Update>(best, before, value, count);
}

// In first-level cache, from everywhere in a vector.
constexpr std::size_t cells = 1024, terms = 1000;
alignas(64) double best[cells], before[cells + 8];

// One term at a time, as the recurrence is written: loads and stores best again for each.
double plain_ceiling() {
    return cells * terms / seconds(0.3, [] {
               for (std::size_t k = 0; k < terms; ++k)
                   update(best, before + k % 8, double(k % 7), cells);
           });
}

// The solver's own loop: best stays in registers.
double register_ceiling() {
    std::vector<MaxPlusTerm> all;
    for (std::size_t k = 0; k < terms; ++k) all.push_back({std::ptrdiff_t(k % 8), double(k % 7)});
    return cells * terms / seconds(0.3, [&] { max_plus(best, before, all, 0, cells); });
}

void report(const Size& size, double plain, double registers) {
    const Problem problem = make_problem(size);
    const std::int64_t least = problem.least_latency_ns();
    const std::int64_t budget_ns = least + (problem.most_latency_ns() - least) / 8;
    const BinnedOptions options{budget_ns / size.bins};
    std::size_t updates = 0;
    const double least_seconds =
        seconds(1, [&] { updates = solve_binned(problem, budget_ns, options).updates; });
    const double rate = double(updates) / least_seconds;
    std::cout << size.positions << ',' << problem.arc_count() << ',' << size.bins << ',' << updates
              << ',' << least_seconds * 1e3 << ',' << rate / 1e9 << ',' << rate / plain << ','
              << rate / registers << std::endl;
}

}  // namespace

int main() {
    const double plain = plain_ceiling(), registers = register_ceiling();
    std::cout << "# plain ceiling " << plain / 1e9 << " G updates/s, register ceiling "
              << registers / 1e9 << " G updates/s\n"
              << "positions,entries,bins,updates,ms,g_updates_per_s,of_plain,of_register\n";
    for (const Size& size : sizes) report(size, plain, registers);
}
