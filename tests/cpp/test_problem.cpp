#include <limits>

#include "check.hpp"
#include "interrupts.hpp"
#include "problem.hpp"
#include "text.hpp"

using namespace layermerge;

namespace {

using Ints = std::vector<std::int32_t>;
using Longs = std::vector<std::int64_t>;
using Doubles = std::vector<double>;

Problem make(const Ints& tail, const Ints& head, const Longs& latency_ns, const Doubles& value) {
    return Problem(tail, head, latency_ns, value);
}

}  // namespace

TEST(arcs_are_grouped_by_head_then_tail_then_id) {
    const Problem problem =
        make({1, 0, 0, 1, 0}, {2, 2, 1, 2, 2}, {5, 9, 3, 4, 8}, {.1, .2, .3, .4, .5});
    const IncomingArcs in = problem.incoming(2);
    CHECK(problem.last_position() == 2);
    CHECK(Ints(in.tail.begin(), in.tail.end()) == Ints{0, 0, 1, 1});
    CHECK(Ints(in.id.begin(), in.id.end()) == Ints{1, 4, 0, 3});
    CHECK(Longs(in.latency_ns.begin(), in.latency_ns.end()) == Longs{9, 8, 5, 4});
    CHECK(Doubles(in.value.begin(), in.value.end()) == Doubles{.2, .5, .1, .4});
    CHECK(problem.first_incoming(2) == 1);
    CHECK(problem.least_latency_ns() == 7);
}

TEST(a_path_sums_what_its_arcs_have) {
    const Problem problem = make({1, 0}, {2, 1}, {5, 9}, {.5, .25});
    const std::vector<std::size_t> indices{0, 1};
    const Path path = problem.path(indices);
    CHECK(path.arcs == Ints{1, 0});
    CHECK(path.latency_ns == 14);
    CHECK(path.value == .75);
}

TEST(errors_name_the_argument_the_index_and_the_value) {
    using E = std::invalid_argument;
    const double nan = std::numeric_limits<double>::quiet_NaN();
    CHECK(MESSAGE_OF(E, make({0, 1}, {1, 2}, {1, -2}, {0, 0})) ==
          "latency_ns[1] must be >= 0, got -2");
    CHECK(MESSAGE_OF(E, make({-1}, {1}, {1}, {0})) == "tail[0] must be >= 0, got -1");
    CHECK(MESSAGE_OF(E, make({3}, {3}, {1}, {0})) == "head[0] must be > tail[0] = 3, got 3");
    CHECK(MESSAGE_OF(E, make({0}, {1}, {1}, {nan})) == "value[0] must be finite, got nan");
    CHECK(MESSAGE_OF(E, make({}, {}, {}, {})) == "there must be at least one arc, got none");
    CHECK(MESSAGE_OF(E, make({0}, {1}, {1, 2}, {0})).find("1, 1, 2 and 1") != std::string::npos);
    CHECK(MESSAGE_OF(E, make({0}, {1 << 30}, {1}, {0})).find("head[0] must be <= 16777216") == 0);
}

TEST(a_gap_is_named_by_the_first_position_that_cannot_be_reached) {
    const std::string message =
        MESSAGE_OF(std::invalid_argument, make({0, 1, 3}, {1, 2, 4}, {1, 1, 1}, {0, 0, 0}));
    CHECK(message.find("position 3 is the first that cannot be reached") != std::string::npos);
    CHECK(message.find("position 2 the last that can") != std::string::npos);
}

TEST(sums_that_overflow_are_refused) {
    constexpr std::int64_t huge = std::numeric_limits<std::int64_t>::max();
    CHECK(make({0, 1}, {1, 2}, {huge / 2, huge / 2}, {0, 0}).least_latency_ns() == huge - 1);
    CHECK(MESSAGE_OF(std::invalid_argument,
                     make({0, 1, 0}, {1, 2, 2}, {huge / 2 + 1, huge / 2, 1}, {0, 0, 0}))
              .find("nanoseconds") != std::string::npos);
    CHECK(MESSAGE_OF(std::invalid_argument, make({0, 1}, {1, 2}, {1, 1}, {1e308, -1e308}))
              .find("sum to infinity") != std::string::npos);
}

TEST(milliseconds_are_exact) {
    CHECK(milliseconds(14221810) == "14.22181 ms");
    CHECK(milliseconds(1) == "0.000001 ms");
    CHECK(milliseconds(0) == "0 ms");
    CHECK(milliseconds(10000000) == "10 ms");
}

TEST(checks_come_often_while_a_huge_problem_is_built) {
    constexpr std::size_t arcs = 4'000'000;
    Ints tail(arcs), head(arcs);
    for (std::size_t a = 0; a < arcs; ++a) {
        tail[a] = std::int32_t(a * 7919 % 100'000);
        head[a] = tail[a] + 1;
    }
    const Longs latency_ns(arcs, 1);
    const Doubles value(arcs, 1.0);
    CHECK(longest_unchecked_seconds([&](const Interrupt& interrupt) {
              const Problem problem(tail, head, latency_ns, value, interrupt);
          }) < most_unchecked_seconds);
}

int main() {
    return check::run();
}
