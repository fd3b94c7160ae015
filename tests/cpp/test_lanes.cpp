#include "check.hpp"
#include "lanes.hpp"

using namespace layermerge;

namespace {

constexpr Lanes a = {{0.1, -0.2, 0.3, 1e300, -5, 0, 7, 0.7}};
constexpr Lanes b = {{-1, 0.9, 0.3, 3, -4, 1, 8, 0}};

template <class Register>
Lanes computed() {
    const auto first = loaded<Register>(a), second = loaded<Register>(b);
    LanesIn<Register> most = first, carried = all_lanes<Register>(-1);
    most.raise(second, 1 - second * first, carried);
    most.raise(all_lanes<Register>(-0.5));
    Lanes result;
    store((most + carried) * 0.1 + first, result);
    return result;
}

template <class Register>
void check_register() {
    const Lanes expected = computed<double>(), found = computed<Register>();
    for (std::size_t l = 0; l < lanes; ++l) CHECK(found[l] == expected[l]);
    CHECK(least(loaded<Register>(a)) == -5);
}

}  // namespace

TEST(what_is_larger_is_taken_with_what_it_carries) {
    const Lanes found = computed<double>();
    CHECK(found[0] == (0.1 + -1) * 0.1 + 0.1);
    CHECK(found[1] == (0.9 + (1 - 0.9 * -0.2)) * 0.1 + -0.2);
    CHECK(found[4] == (-0.5 + (1 - -4 * -5.0)) * 0.1 + -5);
}

TEST(registers_of_every_width_compute_the_same) {
    check_register<double>();
#if defined(LAYERMERGE_VECTORS)
    check_register<TwoDoubles>();
    check_register<FourDoubles>();
    check_register<EightDoubles>();
#endif
}

int main() {
    return check::run();
}
