#include "text.hpp"

#include <iomanip>

namespace layermerge {

std::string milliseconds(std::int64_t ns) {
    std::ostringstream stream;
    stream << ns / 1'000'000;
    if (ns % 1'000'000 != 0) stream << '.' << std::setw(6) << std::setfill('0') << ns % 1'000'000;
    std::string digits = stream.str();
    if (ns % 1'000'000 != 0) digits.erase(digits.find_last_not_of('0') + 1);
    return digits + " ms";
}

}  // namespace layermerge
