
#include "check.hpp"
#include "exact.hpp"
#include "frontier.hpp"
#include "interrupts.hpp"
#include "random_problem.hpp"

using namespace layermerge;

namespace {

using Ints = std::vector<std::int32_t>;

}  // namespace

TEST(at_every_budget_the_frontier_is_what_a_solve_finds) {
    for (unsigned seed = 0; seed < 10; ++seed) {
        const Problem problem = RandomProblem{1, 40, 64}(seed, 20);
        const Frontier found = frontier(problem, {});
        std::size_t k = 0;
        for (std::int64_t budget_ns = problem.least_latency_ns();
             budget_ns <= problem.most_latency_ns(); ++budget_ns) {
            while (k + 1 < found.value.size() && found.latency_ns[k + 1] <= budget_ns) ++k;
            const Path path = solve_exact(problem, budget_ns).path;
            CHECK(path.latency_ns == found.latency_ns[k] && path.value == found.value[k]);
        }
    }
}

TEST(an_approximation_keeps_its_error) {
    const Problem problem = RandomProblem{1, 40, 64}(3, 40);
    const Frontier all = frontier(problem, {}), some = frontier(problem, {100'000, 0.5});
    CHECK(some.error <= 0.5 && some.value.size() < all.value.size());
    std::size_t k = 0;
    for (std::size_t point = 0; point < all.value.size(); ++point) {
        while (k + 1 < some.value.size() && some.latency_ns[k + 1] <= all.latency_ns[point]) ++k;
        CHECK(some.latency_ns[k] <= all.latency_ns[point]);
        CHECK(all.value[point] - some.value[k] <= some.error);
    }
    CHECK(frontier(problem, {5, 0}).value.size() <= 5);
    CHECK(frontier(problem, {100'000, 0}).value == all.value);
}

TEST(a_dead_end_of_large_value_changes_nothing) {
    const Problem problem(Ints{0, 0, 0}, Ints{1, 2, 2}, std::vector<std::int64_t>{1, 2, 3},
                          std::vector<double>{1e9, 1, 2});
    CHECK(frontier(problem, {}).value == std::vector<double>{1, 2});
}

TEST(bad_options_and_too_many_labels_are_refused) {
    const Problem problem = RandomProblem{1, 40, 64}(1, 40);
    CHECK(MESSAGE_OF(std::invalid_argument, frontier(problem, {1, 0})) ==
          "max_points must be >= 2, got 1");
    CHECK(MESSAGE_OF(std::invalid_argument, frontier(problem, {9, -1})) ==
          "epsilon must be >= 0, got -1");
    FrontierOptions small;
    small.memory_limit_bytes = 1000;
    CHECK(MESSAGE_OF(std::invalid_argument, frontier(problem, small)).find("give epsilon") !=
          std::string::npos);
}

// Each layer doubles the labels: eight million in the end.
TEST(checks_come_often_in_a_huge_merge) {
    Ints tail, head;
    std::vector<std::int64_t> latency_ns;
    std::vector<double> value;
    for (std::int32_t layer = 0; layer < 23; ++layer)
        for (const std::int64_t each : {std::int64_t{0}, std::int64_t{1} << layer}) {
            tail.push_back(layer);
            head.push_back(layer + 1);
            latency_ns.push_back(each);
            value.push_back(double(each));
        }
    const Problem problem(tail, head, latency_ns, value);
    std::size_t points = 0;
    CHECK(longest_unchecked_seconds([&](const Interrupt& interrupt) {
              points = frontier(problem, {}, interrupt).value.size();
          }) < most_unchecked_seconds);
    CHECK(points == std::size_t{1} << 23);
}

int main() {
    return check::run();
}
