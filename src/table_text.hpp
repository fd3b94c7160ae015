#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "interrupt.hpp"

namespace layermerge {

// What the fields of a column of text hold.
enum class Field : char {
    skipped = 's',
    whole = 'w',         // 0..999999999
    pair = 'p',          // "3" for 3, 3; or "3x5"
    truth = 't',         // True or False, in any case; 1 or 0
    milliseconds = 'm',  // decimal; to the nearest nanosecond, halves to even
    number = 'f',        // a finite double, correctly rounded
    layers = 'l',        // "(1, 2)", rising
};

// One column's numbers; which vector holds them follows from the field.
struct Column {
    std::vector<std::int64_t> integers;  // whole, pair (two each), truth, milliseconds, layers
    std::vector<double> numbers;
    std::vector<std::size_t> ends;  // of each row's layers
};

// Reads the plain lines of a comma-separated table, the first line (of names) left out; layers may
// be quoted, nothing else. Nothing if any field is written in another way, be it right or wrong:
// then a more patient reader must read it all, or say what is wrong.
std::optional<std::vector<Column>> parse_table(std::string_view text, std::span<const Field> fields,
                                               Interrupt interrupt = {});

}  // namespace layermerge
