#include "bind_tables.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <string>

#include "python_interrupt.hpp"
#include "table_text.hpp"

namespace py = pybind11;
using namespace layermerge;

namespace {

py::tuple layers_of(const Column& column, Interrupt& interrupt) {
    py::tuple rows(column.ends.size());
    std::size_t begin = 0;
    for (std::size_t row = 0; row < column.ends.size(); ++row) {
        const std::size_t end = column.ends[row];
        py::tuple layers(end - begin);
        for (std::size_t k = begin; k < end; ++k) layers[k - begin] = column.integers[k];
        rows[row] = layers;
        interrupt.work(64 + 8 * (end - begin));
        begin = end;
    }
    return rows;
}

py::object to_object(const Column& column, Field field, Interrupt& interrupt) {
    switch (field) {
        case Field::skipped:
            return py::none();
        case Field::layers:
            return layers_of(column, interrupt);
        case Field::number:
            return py::array_t<double>(py::ssize_t(column.numbers.size()), column.numbers.data());
        default:
            return py::array_t<std::int64_t>(py::ssize_t(column.integers.size()),
                                             column.integers.data());
    }
}

std::optional<py::typing::List<py::object>> parse(const py::bytes& content, std::size_t begin,
                                                  const std::string& kinds) {
    std::vector<Field> fields;
    for (const char kind : kinds) fields.push_back(Field(kind));
    const std::string_view text = std::string_view(content).substr(begin);
    std::optional<std::vector<Column>> columns;
    Interrupt interrupt = python_interrupt();
    {
        const py::gil_scoped_release release;
        columns = parse_table(text, fields, interrupt);
    }
    if (!columns) return {};
    py::typing::List<py::object> objects;
    for (std::size_t c = 0; c < fields.size(); ++c)
        objects.append(to_object((*columns)[c], fields[c], interrupt));
    return objects;
}

}  // namespace

void bind_tables(py::module_& m) {
    m.def("parse_table", &parse, py::arg("content"), py::arg("begin"), py::arg("kinds"),
          "Read plain comma-separated lines, from a byte on; None if any field is written in "
          "another way. One letter per column says what it holds: w whole numbers, p pairs, t "
          "truth, m milliseconds as nanoseconds, f numbers, l layers, s nothing of interest.");
}
