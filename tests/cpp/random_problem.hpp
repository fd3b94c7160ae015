// Random problems of which the last position can be reached.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "problem.hpp"

struct RandomProblem {
    int options = 1;  // of each pair of positions, up to four apart
    unsigned latencies_ns = 1000;
    unsigned values = 8;  // in eighths, from minus one on

    layermerge::Problem operator()(unsigned seed, std::int32_t last) const {
        std::mt19937 random(seed);
        std::vector<std::int32_t> tail, head;
        std::vector<std::int64_t> latency_ns;
        std::vector<double> value;
        for (std::int32_t j = 1; j <= last; ++j)
            for (std::int32_t i = std::max(0, j - 4); i < j; ++i)
                for (int option = 0; option < options; ++option) {
                    tail.push_back(i);
                    head.push_back(j);
                    latency_ns.push_back(std::int64_t(random() % latencies_ns));
                    value.push_back(double(random() % values) / 8 - 1);
                }
        return layermerge::Problem(tail, head, latency_ns, value);
    }
};
