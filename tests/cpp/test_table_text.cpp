#include <random>
#include <string>

#include "check.hpp"
#include "decimal.hpp"
#include "table_text.hpp"
#include "text.hpp"

using namespace layermerge;

namespace {

using Integers = std::vector<std::int64_t>;

std::optional<std::vector<Column>> parsed(std::string_view text, std::vector<Field> fields) {
    return parse_table(text, fields);
}

}  // namespace

TEST(plain_lines_are_read) {
    const auto columns = parsed("0,3x5,True,14.22181,\"(1, 2)\",a b\r\n7,3,0,1e-3,(),\n",
                                {Field::whole, Field::pair, Field::truth, Field::milliseconds,
                                 Field::layers, Field::skipped});
    CHECK(columns.has_value());
    CHECK((*columns)[0].integers == Integers{0, 7});
    CHECK((*columns)[1].integers == Integers{3, 5, 3, 3});
    CHECK((*columns)[2].integers == Integers{1, 0});
    CHECK((*columns)[3].integers == Integers{14'221'810, 1000});
    CHECK((*columns)[4].integers == Integers{1, 2});
    CHECK((*columns)[4].ends == std::vector<std::size_t>{2, 2});
}

TEST(milliseconds_round_halves_to_even) {
    const auto columns = parsed("0.0000005\n0.0000015\n0.0000025\n1e-99\n", {Field::milliseconds});
    CHECK((*columns)[0].integers == Integers{0, 2, 2, 0});
}

TEST(what_is_not_plain_is_left_to_others) {
    for (const char* text : {"1e19", "-1", "1 ", "nan", "", ".5", "1e", "1,2", "1\n\n2", "0x3",
                             "9999999999999999999", "1e99"})
        CHECK(!parsed(text[0] ? text : "\n", {Field::milliseconds}));
    for (const char* text : {"inf", "nan", "1e999", "+1", " 1"})
        CHECK(!parsed(text, {Field::number}));
    for (const char* text : {"(1,2)", "\"(2, 1)\"", "\"(1\"", "1", "\"(1, 1)\"", "\"("})
        CHECK(!parsed(text, {Field::layers}));
    CHECK(!parsed("1234567890", {Field::whole}));
    CHECK(!parsed("yes", {Field::truth}));
    CHECK(!parsed("3x", {Field::pair}));
}

TEST(numbers_read_by_streams_are_those_of_from_chars) {
    std::mt19937_64 random(0);
    const std::string_view alphabet = "0123456789.-+eE ,x";
    int numbers = 0;
    for (int trial = 0; trial < 20'000; ++trial) {
        std::string number;
        if (trial % 2 == 0) {
            number = text(random() % 10, ".", random(), "e", int(random() % 600) - 300);
        } else {
            for (std::size_t k = 0, length = random() % 8; k < length; ++k)
                number += alphabet[random() % alphabet.size()];
        }
        const char *const begin = number.data(), *const end = begin + number.size();
        const ReadNumber quick = read_number(begin, end);
        const ReadNumber slow = read_number_by_stream(begin, end);
        CHECK(quick.is_number == slow.is_number);
        if (!quick.is_number) continue;
        ++numbers;
        CHECK(quick.value == slow.value);
        CHECK(quick.end == slow.end);
    }
    CHECK(numbers > 10'000);
}

TEST(numbers_out_of_range_are_none) {
    const std::string_view huge = "1e999";
    CHECK(!read_number(huge.data(), huge.data() + huge.size()).is_number);
    CHECK(!read_number_by_stream(huge.data(), huge.data() + huge.size()).is_number);
}

int main() {
    return check::run();
}
