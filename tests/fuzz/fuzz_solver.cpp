// A libFuzzer target: bytes as a small problem, of which the exact solver, the frontier and the
// recurrence over single nanoseconds must agree; and as the text of a table, which must not crash.
//
// clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -ffp-contract=off -Isrc
//     src/*.cpp tests/fuzz/fuzz_solver.cpp -o fuzz_solver
// ./fuzz_solver -max_total_time=60 tests/fuzz/corpus
#include <cstdlib>
#include <string_view>

#include "binned.hpp"
#include "exact.hpp"
#include "frontier.hpp"
#include "table_text.hpp"

using namespace layermerge;

namespace {

void require(bool holds) {
    if (!holds) std::abort();
}

void parse(std::string_view text) {
    const Field all[] = {Field::whole,  Field::pair,   Field::truth,  Field::milliseconds,
                         Field::number, Field::layers, Field::skipped};
    parse_table(text, all);
    for (const Field& field : all) parse_table(text, {&field, 1});
}

void solve(const std::uint8_t* data, std::size_t size) {
    std::vector<std::int32_t> tail, head;
    std::vector<std::int64_t> latency_ns;
    std::vector<double> value;
    for (std::size_t k = 1; k + 3 < size && tail.size() < 40; k += 4) {
        tail.push_back(data[k] % 8);
        head.push_back(tail.back() + 1 + data[k + 1] % 4);
        latency_ns.push_back(data[k + 2]);
        value.push_back((double(data[k + 3]) - 64) / 8);
    }
    const std::int64_t budget_ns = 4 * data[0];
    try {
        const Problem problem(tail, head, latency_ns, value);
        const Frontier points = frontier(problem, {});
        const Path expected = solve_binned(problem, budget_ns, {1});
        const Solution found = solve_exact(problem, budget_ns);
        require(found.optimal && found.ties_resolved);
        require(found.upper_bound == found.path.value);
        require(found.path.arcs == expected.arcs);
        std::size_t k = points.value.size();
        while (points.latency_ns[k - 1] > budget_ns) --k;
        require(points.latency_ns[k - 1] == found.path.latency_ns);
        require(points.value[k - 1] == found.path.value);
    } catch (const InfeasibleError& error) {
        require(error.least_latency_ns() > budget_ns);
    } catch (const std::invalid_argument&) {
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    parse({reinterpret_cast<const char*>(data), size});
    solve(data, size);
    return 0;
}
