#pragma once

#include <cstdint>
#include <sstream>
#include <string>

namespace layermerge {

// The parts, written one after the other.
template <class... Parts>
std::string text(const Parts&... parts) {
    std::ostringstream stream;
    (stream << ... << parts);
    return stream.str();
}

// Nanoseconds as exact decimal milliseconds: 14221810 -> "14.22181 ms".
std::string milliseconds(std::int64_t ns);

}  // namespace layermerge
