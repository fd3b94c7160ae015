#pragma once

namespace layermerge {

// A number read from the front of a text: where it ends, and whether it is one.
struct ReadNumber {
    double value = 0;
    const char* end = nullptr;
    bool is_number = false;
};

// [-]digits[.digits][e[+-]digits], correctly rounded, whatever the locale.
ReadNumber read_number(const char* begin, const char* end);

// The same for standard libraries that have no from_chars of doubles, several times slower.
ReadNumber read_number_by_stream(const char* begin, const char* end);

}  // namespace layermerge
