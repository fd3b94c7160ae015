#include <thread>

#include "binned.hpp"
#include "check.hpp"
#include "interrupts.hpp"
#include "random_problem.hpp"

using namespace layermerge;

namespace {

using Ints = std::vector<std::int32_t>;

// Two layers: merged {3}, each on its own {0 or 1 (slow, good)}, {2}.
Problem small() {
    return Problem(Ints{0, 0, 1, 0}, Ints{1, 1, 2, 2}, std::vector<std::int64_t>{10, 25, 10, 15},
                   std::vector<double>{1, 2, 1, .5});
}

}  // namespace

TEST(the_best_path_within_the_budget_is_found) {
    const Problem problem = small();
    CHECK(solve_binned(problem, 35, {1}).arcs == Ints{1, 2});
    CHECK(solve_binned(problem, 34, {1}).arcs == Ints{0, 2});
    CHECK(solve_binned(problem, 19, {1}).arcs == Ints{3});
    CHECK(solve_binned(problem, 1'000'000'000'000, {1}).latency_ns == 35);
}

TEST(rounding_up_keeps_the_budget_and_floor_may_not) {
    const Problem problem = small();
    CHECK(solve_binned(problem, 30, {10, Rounding::up}).latency_ns == 20);
    CHECK(solve_binned(problem, 30, {10, Rounding::floor}).latency_ns == 35);
}

TEST(an_infeasible_budget_names_the_least_latency) {
    const Problem problem = small();
    for (const Rounding rounding : {Rounding::up, Rounding::floor}) {
        const std::string message =
            MESSAGE_OF(InfeasibleError, solve_binned(problem, 4, {10, rounding}));
        CHECK(message.find("the least achievable latency is 0.000015 ms") != std::string::npos);
    }
    CHECK(solve_binned(problem, 15, {10, Rounding::floor}).arcs == Ints{3});
    CHECK(MESSAGE_OF(InfeasibleError, solve_binned(problem, 19, {10})).find("smaller bins") !=
          std::string::npos);
}

TEST(ties_go_to_fewer_bins_then_fewer_arcs_then_smaller_ids) {
    const std::vector<std::int64_t> latency_ns{5, 5, 5, 5, 10, 12};
    const std::vector<double> value{1, 1, 1, 1, 2, 2};
    const Ints tail{0, 0, 1, 1, 0, 0}, head{1, 1, 2, 2, 2, 2};
    CHECK(solve_binned(Problem(tail, head, latency_ns, value), 50, {1}).arcs == Ints{4});
    const std::vector<double> less{1, 1, 1, 1, 1.5, 2};
    CHECK(solve_binned(Problem(tail, head, latency_ns, less), 50, {1}).arcs == Ints{0, 2});
}

TEST(tables_above_the_memory_limit_are_refused) {
    const Problem problem = RandomProblem{}(1, 100);
    const std::string message =
        MESSAGE_OF(std::invalid_argument, solve_binned(problem, 30'000, {1, Rounding::up, 1000}));
    CHECK(message.find("above the memory limit of 0.001 MB") != std::string::npos);
    CHECK(solve_binned(problem, 30'000, {1}).latency_ns <= 30'000);
}

TEST(bad_options_are_refused) {
    const Problem problem = small();
    CHECK(MESSAGE_OF(std::invalid_argument, solve_binned(problem, -1, {1})) ==
          "budget_ns must be >= 0, got -1");
    CHECK(MESSAGE_OF(std::invalid_argument, solve_binned(problem, 1, {0})) ==
          "bin_ns must be >= 1, got 0");
}

TEST(the_check_can_stop_the_computation) {
    const Problem problem = RandomProblem{}(1, 1000);
    CHECK(is_stopped(
        [&](const Interrupt& interrupt) { solve_binned(problem, 150'000, {1}, interrupt); }));
}

TEST(threads_share_a_problem) {
    const Problem problem = RandomProblem{}(7, 200);
    const Path alone = solve_binned(problem, 20'000, {3});
    std::vector<Path> paths(4);
    std::vector<std::thread> threads;
    for (Path& path : paths)
        threads.emplace_back([&] { path = solve_binned(problem, 20'000, {3}); });
    for (std::thread& thread : threads) thread.join();
    for (const Path& path : paths) CHECK(path.arcs == alone.arcs && path.value == alone.value);
}

TEST(rows_of_many_bins_do_not_keep_an_interrupt_waiting) {
    std::vector<std::int32_t> tail, head;
    std::vector<std::int64_t> latency_ns;
    for (std::int32_t j = 0; j < 256; ++j)
        for (const std::int64_t ns : {1000, 3001}) {
            tail.push_back(j);
            head.push_back(j + 1);
            latency_ns.push_back(ns);
        }
    const Problem problem(tail, head, latency_ns,
                          std::vector<double>(latency_ns.begin(), latency_ns.end()));
    CHECK(longest_unchecked_seconds([&](const Interrupt& interrupt) {
              solve_binned(problem, 512'000, {1}, interrupt);
          }) < most_unchecked_seconds);
}

int main() {
    return check::run();
}
