// A test framework in one page: nothing is fetched to build the tests.
#pragma once

#include <exception>
#include <functional>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

namespace check {

struct Test {
    std::string name;
    std::function<void()> body;
};

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

inline int& failures() {
    static int count = 0;
    return count;
}

struct Registration {
    Registration(std::string name, std::function<void()> body) {
        tests().push_back({std::move(name), std::move(body)});
    }
};

inline void expect(bool holds, const char* expression, const char* file, int line) {
    if (holds) return;
    ++failures();
    std::cerr << file << ":" << line << ": does not hold: " << expression << "\n";
}

// The message of the Error that the call throws; a failure if it throws none.
template <class Error, class Call>
std::string message_of(Call call, const char* file, int line) {
    try {
        call();
    } catch (const Error& error) {
        return error.what();
    }
    expect(false, "an exception is thrown", file, line);
    return "";
}

inline int run() {
    for (const Test& test : tests()) {
        try {
            test.body();
        } catch (const std::exception& error) {
            ++failures();
            std::cerr << test.name << ": threw " << error.what() << "\n";
        }
    }
    std::cout << tests().size() << " tests, " << failures() << " failures\n";
    return failures() == 0 && !tests().empty() ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                                   \
    static void name();                                              \
    static const check::Registration name##_registered(#name, name); \
    static void name()
#define CHECK(...) check::expect((__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
#define MESSAGE_OF(Error, ...) check::message_of<Error>([&] { __VA_ARGS__; }, __FILE__, __LINE__)
