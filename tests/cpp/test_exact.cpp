#include <random>
#include <thread>

#include "binned.hpp"
#include "check.hpp"
#include "exact.hpp"

using namespace layermerge;

namespace {

using Ints = std::vector<std::int32_t>;

Problem random_problem(unsigned seed, std::int32_t last, unsigned values = 8) {
    std::mt19937 random(seed);
    Ints tail, head;
    std::vector<std::int64_t> latency_ns;
    std::vector<double> value;
    for (std::int32_t j = 1; j <= last; ++j)
        for (std::int32_t i = std::max(0, j - 4); i < j; ++i)
            for (int option = 0; option < 2; ++option) {
                tail.push_back(i);
                head.push_back(j);
                latency_ns.push_back(std::int64_t(random() % 1000));
                value.push_back(double(random() % values) - 1);
            }
    return Problem(tail, head, latency_ns, value);
}

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
        const Problem problem = random_problem(seed, 30, seed % 2 ? 8 : 1000);
        for (const std::int64_t budget_ns : {3'000, 6'000, 12'000}) {
            const Path expected = solve_binned(problem, budget_ns, {1});
            const Solution found = solve_exact(problem, budget_ns);
            CHECK(found.optimal && found.path.arcs == expected.arcs);
        }
    }
}

TEST(a_memory_limit_ends_in_a_feasible_path_and_an_honest_bound) {
    const Problem problem = random_problem(3, 200, 1000);
    const Solution all = solve_exact(problem, 20'000);
    const Solution some = solve_exact(problem, 20'000, {0, 0});
    CHECK(all.optimal && some.path.latency_ns <= 20'000);
    CHECK(some.path.value <= all.path.value && all.path.value <= some.upper_bound);
}

TEST(a_gap_is_kept) {
    const Problem problem = random_problem(4, 100, 1000);
    const Solution found = solve_exact(problem, 10'000, {0.01});
    CHECK(found.upper_bound - found.path.value <= 0.01 * found.path.value);
    CHECK(solve_exact(problem, 10'000).path.value <= found.upper_bound);
    CHECK(MESSAGE_OF(std::invalid_argument, solve_exact(problem, 1, {-1})) ==
          "gap must be >= 0, got -1");
}

TEST(the_check_can_stop_the_computation) {
    struct Stopped : std::exception {};
    const Problem problem = random_problem(1, 400'000);
    bool stopped = false;
    try {
        solve_exact(problem, 100'000'000, {}, Interrupt([] { throw Stopped(); }));
    } catch (const Stopped&) {
        stopped = true;
    }
    CHECK(stopped);
}

TEST(threads_share_a_problem) {
    const Problem problem = random_problem(7, 300, 1000);
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
