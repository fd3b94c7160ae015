#include <thread>

#include "binned.hpp"
#include "check.hpp"
#include "exact.hpp"
#include "interrupts.hpp"
#include "random_problem.hpp"

using namespace layermerge;

namespace {

using Ints = std::vector<std::int32_t>;

}  // namespace

TEST(the_best_path_within_the_budget_is_found_and_proven) {
    const Problem problem(Ints{0, 0, 1, 0}, Ints{1, 1, 2, 2},
                          std::vector<std::int64_t>{10, 25, 10, 15},
                          std::vector<double>{1, 2, 1, .5});
    const auto arcs = [&](std::int64_t budget_ns) {
        const Solution found = solve_exact(problem, budget_ns);
        CHECK(found.optimal && found.ties_resolved && found.upper_bound == found.path.value);
        return found.path.arcs;
    };
    CHECK(arcs(35) == Ints{1, 2});
    CHECK(arcs(34) == Ints{0, 2});
    CHECK(arcs(19) == Ints{3});
    CHECK(arcs(1'000'000'000'000) == Ints{1, 2});
    CHECK(MESSAGE_OF(InfeasibleError, solve_exact(problem, 14)).find("0.000015 ms") !=
          std::string::npos);
    CHECK(MESSAGE_OF(std::invalid_argument, solve_exact(problem, -1)) ==
          "budget_ns must be >= 0, got -1");
}

TEST(it_equals_the_recurrence_over_single_nanoseconds) {
    for (unsigned seed = 0; seed < 20; ++seed) {
        const Problem problem = RandomProblem{2, 1000, seed % 2 ? 8u : 1000u}(seed, 30);
        for (const std::int64_t budget_ns : {3'000, 6'000, 12'000}) {
            const Path expected = solve_binned(problem, budget_ns, {1});
            const Solution found = solve_exact(problem, budget_ns);
            CHECK(found.optimal && found.path.arcs == expected.arcs);
        }
    }
}

TEST(a_memory_limit_ends_in_a_feasible_path_and_an_honest_bound) {
    const Problem problem = RandomProblem{2, 1000, 1000}(3, 200);
    const Solution all = solve_exact(problem, 20'000);
    const Solution some = solve_exact(problem, 20'000, {0, 0});
    CHECK(all.optimal && some.path.latency_ns <= 20'000);
    CHECK(some.path.value <= all.path.value && all.path.value <= some.upper_bound);
}

TEST(a_gap_is_kept) {
    const Problem problem = RandomProblem{2, 1000, 1000}(4, 100);
    const Solution found = solve_exact(problem, 10'000, {0.01});
    CHECK(found.upper_bound - found.path.value <= 0.01 * found.path.value);
    CHECK(solve_exact(problem, 10'000).path.value <= found.upper_bound);
    CHECK(MESSAGE_OF(std::invalid_argument, solve_exact(problem, 1, {-1})) ==
          "gap must be >= 0, got -1");
}

TEST(the_check_can_stop_the_computation) {
    const Problem problem = RandomProblem{2}(1, 400'000);
    CHECK(is_stopped(
        [&](const Interrupt& interrupt) { solve_exact(problem, 100'000'000, {}, interrupt); }));
}

TEST(threads_share_a_problem) {
    const Problem problem = RandomProblem{2, 1000, 1000}(7, 300);
    const Path alone = solve_exact(problem, 30'000).path;
    std::vector<Path> paths(4);
    std::vector<std::thread> threads;
    for (Path& path : paths)
        threads.emplace_back([&] { path = solve_exact(problem, 30'000).path; });
    for (std::thread& thread : threads) thread.join();
    for (const Path& path : paths) CHECK(path.arcs == alone.arcs && path.value == alone.value);
}

int main() {
    return check::run();
}
