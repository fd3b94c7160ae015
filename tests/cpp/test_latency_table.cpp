#include "check.hpp"
#include "latency_table.hpp"

using namespace layermerge;

namespace {

using Longs = std::vector<std::int64_t>;

const Longs two_rows{64, 64, 3, 64, 128, 5};

}  // namespace

TEST(a_signature_is_looked_up_whole) {
    const LatencyTable table({two_rows, 3}, Longs{10, 20});
    CHECK(table.size() == 2);
    CHECK(table.lookup({Longs{64, 128, 5, 64, 64, 3, 64, 128, 5}, 3}) == Longs{20, 10, 20});
}

TEST(many_signatures_keep_their_latencies) {
    Longs rows, latency_ns;
    for (std::int64_t n = 0; n < 5000; ++n) {
        rows.insert(rows.end(), {n % 70, n});
        latency_ns.push_back(n * n);
    }
    CHECK(LatencyTable({rows, 2}, latency_ns).lookup({rows, 2}) == latency_ns);
}

TEST(the_first_missing_signature_is_named) {
    const LatencyTable table({two_rows, 3}, Longs{10, 20});
    const std::string message =
        MESSAGE_OF(std::invalid_argument, table.lookup({Longs{64, 64, 3, 1, 2, 3, 4, 5, 6}, 3}));
    CHECK(message.find("signature[1] = (1, 2, 3) has no latency: 2 of 3") == 0);
    CHECK(MESSAGE_OF(std::invalid_argument, table.lookup({Longs{1, 2}, 2})) ==
          "signature must have 3 columns, got 2");
}

TEST(a_signature_has_one_latency) {
    const Longs twice{1, 2, 1, 2};
    CHECK(LatencyTable({twice, 2}, Longs{7, 7}).size() == 1);
    CHECK(MESSAGE_OF(std::invalid_argument, LatencyTable({twice, 2}, Longs{7, 8})) ==
          "signature[1] = (1, 2) has latency_ns 8, but an earlier row gives it 7");
    CHECK(MESSAGE_OF(std::invalid_argument, LatencyTable({twice, 2}, Longs{7, -8})) ==
          "latency_ns[1] must be >= 0, got -8");
}

int main() {
    return check::run();
}
