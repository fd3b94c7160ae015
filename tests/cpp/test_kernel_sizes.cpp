#include <memory>
#include <stdexcept>

#include "check.hpp"
#include "kernel_sizes.hpp"

using namespace layermerge;

namespace {

struct Chain {
    std::vector<std::int32_t> growth;
    std::vector<double> norm;
    std::vector<std::uint8_t> irreducible;
    std::vector<std::uint8_t> depthwise;
};

using Program = std::vector<std::int32_t>;

KernelSizes sizes_of(const Chain& chain, MaxKernel max_kernel = {}, const Program& program = {}) {
    const std::size_t n = chain.growth.size();
    const auto flags = std::make_unique<bool[]>(2 * n);
    for (std::size_t l = 0; l < n; ++l) {
        flags[l] = chain.irreducible[l] != 0;
        flags[n + l] = chain.depthwise[l] != 0;
    }
    return kernel_sizes(
        {chain.growth, chain.growth, chain.norm, {flags.get(), n}, {flags.get() + n, n}}, program,
        max_kernel);
}

using Bytes = std::vector<std::uint8_t>;
using Ints = std::vector<std::int32_t>;

}  // namespace

TEST(each_size_keeps_the_layers_of_largest_norm) {
    const KernelSizes found = sizes_of({{2, 2}, {1, 3}, {0, 0}, {0, 0}});
    CHECK(found.kernel_h == Ints{1, 3, 5});
    CHECK(found.weight_l1 == std::vector<double>{0, 3, 4});
    CHECK(found.kept == Bytes{0, 0, 0, 1, 1, 1});
}

TEST(irreducible_layers_are_always_kept) {
    const KernelSizes found = sizes_of({{2, 4}, {1, 9}, {1, 0}, {0, 0}});
    CHECK(found.kernel_h == Ints{3, 7});
    CHECK(found.kept == Bytes{1, 0, 1, 1});
}

TEST(depthwise_sets_are_entries_of_their_own) {
    const KernelSizes found = sizes_of({{2, 2}, {1, 5}, {0, 0}, {0, 1}});
    CHECK(found.kernel_h == Ints{1, 3, 3, 5});
    CHECK(found.is_depthwise == Bytes{0, 0, 1, 0});
    CHECK(found.kept == Bytes{0, 0, 1, 0, 0, 1, 1, 1});
}

TEST(ties_go_to_more_layers_then_to_the_first_layers) {
    CHECK(sizes_of({{0, 2, 2}, {0, 1, 1}, {0, 0, 0}, {0, 0, 0}}).kept ==
          Bytes{0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1});
    // Kept {0, 1} (then depthwise) and {0, 2} (then not) are equally good: {0, 1} comes first.
    CHECK(sizes_of({{2, 2, 2}, {5, 1, 1}, {1, 0, 0}, {0, 1, 0}}).kept ==
          Bytes{1, 0, 0, 1, 1, 0, 1, 1, 1});
}

TEST(sums_equal_in_another_order_are_ties) {
    // 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1 in double.
    const KernelSizes found = sizes_of(
        {{1, 1, 1, 1, 1, 1}, {.1, .2, .3, .3, .2, .1}, {0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0}});
    CHECK(Bytes(found.kept.begin() + 18, found.kept.begin() + 24) == Bytes{0, 1, 1, 1, 0, 0});
}

TEST(the_largest_kernel_can_be_limited) {
    CHECK(sizes_of({{2, 2}, {1, 3}, {0, 0}, {0, 0}}, {3, 3}).kernel_h == Ints{1, 3});
    CHECK(sizes_of({{2, 2}, {1, 3}, {1, 1}, {0, 0}}, {3, 3}).size() == 0);
}

TEST(the_larger_growth_of_two_branches_counts_and_one_may_leave_a_sum) {
    const Chain chain{{2, 4}, {1, 3}, {1, 1}, {0, 0}};
    const KernelSizes joined = sizes_of(chain, {}, {0, 1, structure::join});
    CHECK(joined.kernel_h == Ints{5});
    CHECK(joined.kept == Bytes{1, 1});
    const KernelSizes summed = sizes_of(chain, {}, {0, 1, structure::sum});
    CHECK(summed.kernel_h == Ints{3, 5});
    CHECK(summed.kept == Bytes{1, 0, 1, 1});
}

TEST(a_branch_without_layers_stays_in_a_sum) {
    const Chain chain{{2, 4}, {1, 3}, {1, 0}, {0, 0}};
    CHECK(sizes_of(chain, {}, {0, structure::identity, structure::sum}).kernel_h == Ints{1, 3});
    CHECK(sizes_of(chain, {}, {0, structure::first_window - 1, structure::sum}).kernel_h ==
          Ints{5, 5});
}

TEST(errors_name_the_argument_the_index_and_the_value) {
    using E = std::invalid_argument;
    const Chain one{{1}, {1}, {0}, {0}};
    CHECK(MESSAGE_OF(E, sizes_of(one, {}, {1})) ==
          "program[0] must be the index l of one of 1 layers, -5 - l, or -1..-4, got 1");
    CHECK(MESSAGE_OF(E, sizes_of(one, {}, {-6})) ==
          "program[0] must be the index l of one of 1 layers, -5 - l, or -1..-4, got -6");
    CHECK(MESSAGE_OF(E, sizes_of(one, {}, {0, structure::sum})) ==
          "program[1] joins two operands, but only 1 stand before it");
    CHECK(MESSAGE_OF(E, sizes_of(one, {}, {0, structure::identity})) ==
          "program must leave one operand, got 2");
    CHECK(MESSAGE_OF(E, sizes_of({})) == "growth_h must not be empty");
    CHECK(MESSAGE_OF(E, sizes_of({{-1}, {1}, {0}, {0}})) == "growth_h[0] must be >= 0, got -1");
    CHECK(MESSAGE_OF(E, sizes_of({{1}, {-1}, {0}, {0}})) ==
          "weight_l1[0] must be finite and >= 0, got -1");
    CHECK(MESSAGE_OF(E, sizes_of({{1}, {1}, {0}, {0}}, {3, 0})) ==
          "max_kernel_w must be >= 1, got 0");
}

int main() {
    return check::run();
}
