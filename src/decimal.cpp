#include "decimal.hpp"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <locale>
#include <sstream>
#include <string>

namespace layermerge {
namespace {

const char* skip_digits(const char* at, const char* end) {
    while (at != end && *at >= '0' && *at <= '9') ++at;
    return at;
}

// Where the number at the front ends; where it begins if there is none.
const char* end_of_number(const char* const begin, const char* const end) {
    const char* const first = begin != end && *begin == '-' ? begin + 1 : begin;
    const char* at = skip_digits(first, end);
    std::ptrdiff_t digits = at - first;
    if (at != end && *at == '.') {
        const char* const fraction = at + 1;
        at = skip_digits(fraction, end);
        digits += at - fraction;
    }
    if (digits == 0) return begin;
    if (at == end || (*at != 'e' && *at != 'E')) return at;
    const char* const sign = at + 1;
    const char* const exponent = sign != end && (*sign == '-' || *sign == '+') ? sign + 1 : sign;
    const char* const last = skip_digits(exponent, end);
    return last == exponent ? at : last;
}

}  // namespace

ReadNumber read_number_by_stream(const char* begin, const char* end) {
    ReadNumber read;
    read.end = end_of_number(begin, end);
    if (read.end == begin) return read;
    std::istringstream stream(std::string(begin, read.end));
    stream.imbue(std::locale::classic());
    stream >> read.value;
    // from_chars refuses what is too small for a double; a stream makes it zero.
    const char* const exponent = std::find_if(begin, read.end, [](char c) { return c >= 'A'; });
    const bool is_zero = std::none_of(begin, exponent, [](char c) { return c >= '1' && c <= '9'; });
    read.is_number = !stream.fail() && (read.value != 0 || is_zero);
    return read;
}

ReadNumber read_number(const char* begin, const char* end) {
#if defined(__cpp_lib_to_chars)
    ReadNumber read;
    const auto [stop, error] = std::from_chars(begin, end, read.value);
    read.end = stop;
    read.is_number = error == std::errc{};
    return read;
#else
    return read_number_by_stream(begin, end);
#endif
}

}  // namespace layermerge
