#include "table_text.hpp"

#include <charconv>
#include <cmath>

#include "decimal.hpp"

namespace layermerge {
namespace {

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

// Reads from the front of what is left of the text; false leaves the rest undefined.
class Reader {
 public:
    explicit Reader(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

    bool done() const { return at_ == end_; }

    bool skip(char c) {
        if (done() || *at_ != c) return false;
        ++at_;
        return true;
    }
    bool skip_word(std::string_view lower) {
        if (std::size_t(end_ - at_) < lower.size()) return false;
        for (std::size_t k = 0; k < lower.size(); ++k)
            if ((at_[k] | 0x20) != lower[k]) return false;
        at_ += lower.size();
        return true;
    }
    // A line may end in "\r\n", the last one in nothing.
    bool end_line() {
        skip('\r');
        return done() || skip('\n');
    }

    bool whole(std::vector<std::int64_t>& into) {
        const char* const begin = at_;
        std::int64_t value = 0;
        while (!done() && is_digit(*at_)) {
            if (at_ - begin == 9) return false;
            value = 10 * value + (*at_++ - '0');
        }
        into.push_back(value);
        return at_ != begin;
    }
    bool pair(std::vector<std::int64_t>& into) {
        if (!whole(into)) return false;
        if (skip('x')) return whole(into);
        into.push_back(into.back());
        return true;
    }
    bool truth(std::vector<std::int64_t>& into) {
        const bool is_true = skip('1') || skip_word("true");
        into.push_back(is_true);
        return is_true || skip('0') || skip_word("false");
    }
    bool number(std::vector<double>& into) {
        const ReadNumber read = read_number(at_, end_);
        at_ = read.end;
        into.push_back(read.value);
        return read.is_number && std::isfinite(read.value);
    }
    bool milliseconds(std::vector<std::int64_t>& into) {
        std::uint64_t digits = 0;
        int count = 0, exponent = 0;
        if (!collect(digits, count)) return false;
        if (skip('.')) {
            const int before = count;
            while (!done() && is_digit(*at_))
                if (!collect_digit(digits, count)) return false;
            exponent = before - count;
        }
        if (skip('e') || skip('E')) {
            skip('+');
            int written = 0;
            const auto [stop, error] = std::from_chars(at_, end_, written);
            at_ = stop;
            if (error != std::errc{} || written < -99 || written > 99) return false;
            exponent += written;
        }
        return nanoseconds(digits, exponent + 6, into);
    }
    bool layers(Column& into) {
        const bool quoted = skip('"');
        if (!skip('(')) return false;
        const std::size_t before = into.integers.size();
        while (!skip(')')) {
            if (!whole(into.integers)) return false;
            const std::size_t last = into.integers.size() - 1;
            if (last > before && into.integers[last] <= into.integers[last - 1]) return false;
            if (skip(',')) skip(' ');
        }
        into.ends.push_back(into.integers.size());
        // Unquoted, a comma between layers would have been one between fields.
        return quoted ? skip('"') : into.integers.size() == before;
    }
    bool anything() {
        while (!done() && *at_ != ',' && *at_ != '\n' && *at_ != '\r')
            if (*at_++ == '"') return false;
        return true;
    }

 private:
    static constexpr int most_digits = 18;

    bool collect_digit(std::uint64_t& digits, int& count) {
        if (++count > most_digits) return false;
        digits = 10 * digits + std::uint64_t(*at_++ - '0');
        return true;
    }
    bool collect(std::uint64_t& digits, int& count) {
        while (!done() && is_digit(*at_))
            if (!collect_digit(digits, count)) return false;
        return count > 0;
    }
    // digits * 10^exponent, rounded.
    static bool nanoseconds(std::uint64_t digits, int exponent, std::vector<std::int64_t>& into) {
        constexpr std::uint64_t most = std::uint64_t{1} << 62;
        for (; exponent > 0 && digits > 0; --exponent) {
            if (digits > most / 10) return false;
            digits *= 10;
        }
        if (exponent < 0) {
            if (exponent < -most_digits) {
                digits = 0;  // below 10^18 / 10^19
            } else {
                std::uint64_t unit = 1;
                for (; exponent < 0; ++exponent) unit *= 10;
                const std::uint64_t rest = digits % unit;
                digits /= unit;
                digits += 2 * rest > unit || (2 * rest == unit && digits % 2 == 1);
            }
        }
        into.push_back(std::int64_t(digits));
        return digits <= most;
    }

    const char* at_;
    const char* end_;
};

bool read_field(Reader& reader, Field field, Column& column) {
    switch (field) {
        case Field::skipped:
            return reader.anything();
        case Field::whole:
            return reader.whole(column.integers);
        case Field::pair:
            return reader.pair(column.integers);
        case Field::truth:
            return reader.truth(column.integers);
        case Field::milliseconds:
            return reader.milliseconds(column.integers);
        case Field::number:
            return reader.number(column.numbers);
        case Field::layers:
            return reader.layers(column);
    }
    return false;
}

}  // namespace

std::optional<std::vector<Column>> parse_table(std::string_view text, std::span<const Field> fields,
                                               Interrupt interrupt) {
    std::vector<Column> columns(fields.size());
    Reader reader(text);
    while (!reader.done()) {
        for (std::size_t c = 0; c < fields.size(); ++c) {
            if (c > 0 && !reader.skip(',')) return {};
            if (!read_field(reader, fields[c], columns[c])) return {};
        }
        if (!reader.end_line()) return {};
        interrupt.work(64 * fields.size());
    }
    return columns;
}

}  // namespace layermerge
