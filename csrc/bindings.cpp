// The border: array checks, exceptions, release of the GIL, interrupts. Nothing else.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <optional>
#include <string>

#include "bind_tables.hpp"
#include "binned.hpp"
#include "exact.hpp"
#include "frontier.hpp"
#include "kernel_sizes.hpp"
#include "latency_table.hpp"
#include "problem.hpp"
#include "python_interrupt.hpp"
#include "text.hpp"
#include "vector_instructions.hpp"

namespace py = pybind11;
using namespace layermerge;

using Bools = py::array_t<bool>;
using Doubles = py::array_t<double>;
using Ints = py::array_t<std::int32_t>;

namespace {

// An array's elements without a copy; anything but the right kind of array is refused.
template <class T>
std::span<const T> elements(const py::array& array, py::ssize_t dimensions, const char* name) {
    const py::dtype wanted = py::dtype::of<T>();
    if (!array.dtype().equal(wanted))
        throw std::invalid_argument(text(name, " must be an array of ",
                                         std::string(py::str(py::object(wanted))), ", got ",
                                         std::string(py::str(py::object(array.dtype())))));
    if (array.ndim() != dimensions)
        throw std::invalid_argument(
            text(name, " must have ", dimensions, " dimension(s), got ", array.ndim()));
    if (!(array.flags() & py::array::c_style))
        throw std::invalid_argument(
            text(name, " must be contiguous: pass numpy.ascontiguousarray(", name, ")"));
    return {static_cast<const T*>(array.data()), std::size_t(array.size())};
}

template <class T>
std::span<const T> column(const py::array& array, const char* name) {
    return elements<T>(array, 1, name);
}

Signatures signature_rows(const py::array& array) {
    const std::span<const std::int64_t> values = elements<std::int64_t>(array, 2, "signature");
    return {values, std::size_t(array.shape(1))};
}

template <class T, class Stored>
py::array_t<T> to_array(const std::vector<Stored>& values) {
    py::array_t<T> array(py::ssize_t(values.size()));
    std::copy(values.begin(), values.end(), array.mutable_data());
    return array;
}

template <class Function>
auto without_gil(Function function) {
    const py::gil_scoped_release release;
    return function();
}

Problem make_problem(const py::array& tail, const py::array& head, const py::array& latency_ns,
                     const py::array& value) {
    const auto tails = column<std::int32_t>(tail, "tail");
    const auto heads = column<std::int32_t>(head, "head");
    const auto latencies = column<std::int64_t>(latency_ns, "latency_ns");
    const auto values = column<double>(value, "value");
    return without_gil([&, interrupt = python_interrupt()] {
        return Problem(tails, heads, latencies, values, interrupt);
    });
}

Rounding parse_rounding(const std::string& rounding) {
    if (rounding == "up") return Rounding::up;
    if (rounding == "floor") return Rounding::floor;
    throw std::invalid_argument("rounding must be 'up' or 'floor', got '" + rounding + "'");
}

py::typing::Tuple<Ints, double, std::int64_t> binned(const Problem& problem, std::int64_t budget_ns,
                                                     std::int64_t bin_ns,
                                                     const std::string& rounding,
                                                     std::size_t memory_limit_bytes) {
    const BinnedOptions options{bin_ns, parse_rounding(rounding), memory_limit_bytes};
    const Path path = without_gil([&, interrupt = python_interrupt()] {
        return solve_binned(problem, budget_ns, options, interrupt);
    });
    return py::make_tuple(to_array<std::int32_t>(path.arcs), path.value, path.latency_ns);
}

std::vector<Solution> exact(const Problem& problem, const std::vector<std::int64_t>& budgets_ns,
                            double gap, std::size_t memory_limit_bytes) {
    return without_gil([&, interrupt = python_interrupt()] {
        ExactSolver solver(problem);
        std::vector<Solution> solutions;
        for (const std::int64_t budget_ns : budgets_ns)
            solutions.push_back(solver.solve(budget_ns, {gap, memory_limit_bytes}, interrupt));
        return solutions;
    });
}

py::typing::Tuple<py::array_t<std::int64_t>, Doubles, double> all_budgets(
    const Problem& problem, std::optional<std::size_t> max_points, double epsilon,
    std::size_t memory_limit_bytes) {
    const FrontierOptions options{max_points.value_or(FrontierOptions{}.max_points), epsilon,
                                  memory_limit_bytes};
    const Frontier found = without_gil(
        [&, interrupt = python_interrupt()] { return frontier(problem, options, interrupt); });
    return py::make_tuple(to_array<std::int64_t>(found.latency_ns), to_array<double>(found.value),
                          found.error);
}

py::typing::Tuple<Ints, Bools, Doubles, Bools> segment_kernel_sizes(
    const py::array& growth_h, const py::array& growth_w, const py::array& weight_l1,
    const py::array& irreducible, const py::array& depthwise, const py::array& program,
    std::optional<std::int32_t> max_kernel_h, std::optional<std::int32_t> max_kernel_w) {
    const SegmentLayers layers{
        column<std::int32_t>(growth_h, "growth_h"), column<std::int32_t>(growth_w, "growth_w"),
        column<double>(weight_l1, "weight_l1"), column<bool>(irreducible, "irreducible"),
        column<bool>(depthwise, "depthwise")};
    const auto codes = column<std::int32_t>(program, "program");
    MaxKernel max_kernel;
    max_kernel.h = max_kernel_h.value_or(max_kernel.h);
    max_kernel.w = max_kernel_w.value_or(max_kernel.w);
    const KernelSizes found = without_gil([&, interrupt = python_interrupt()] {
        return kernel_sizes(layers, codes, max_kernel, interrupt);
    });
    const auto entries = py::ssize_t(found.size());
    Ints sizes({entries, py::ssize_t{2}});
    for (py::ssize_t e = 0; e < entries; ++e) {
        sizes.mutable_at(e, 0) = found.kernel_h[std::size_t(e)];
        sizes.mutable_at(e, 1) = found.kernel_w[std::size_t(e)];
    }
    return py::make_tuple(
        sizes, to_array<bool>(found.is_depthwise), to_array<double>(found.weight_l1),
        to_array<bool>(found.kept).reshape({entries, py::ssize_t(layers.size())}));
}

py::array_t<std::int64_t> lookup(const LatencyTable& table, const py::array& signature) {
    const Signatures rows = signature_rows(signature);
    return to_array<std::int64_t>(without_gil([&] { return table.lookup(rows); }));
}

void translate(std::exception_ptr pending) {
    const auto error_class = [](const char* name) {
        return py::module_::import("layermerge.errors").attr(name);
    };
    try {
        if (pending) std::rethrow_exception(pending);
    } catch (const InfeasibleError& error) {
        const py::object type = error_class("InfeasibleError");
        PyErr_SetObject(type.ptr(), type(error.what(), error.least_latency_ns()).ptr());
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(error_class("InputError").ptr(), error.what());
    }
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    m.doc() = "The C++ core: arrays in, arrays out. Use it through layermerge.solver.";
    py::register_local_exception_translator(translate);
    bind_tables(m);
    m.def("vector_instructions", &vector_instructions,
          "What the inner loops run on, on this machine: 'avx512f', 'avx2' or 'baseline'.");

    py::class_<Problem>(m, "Problem",
                        "Validated arcs of a directed acyclic graph on positions 0..last_position.")
        .def(py::init(&make_problem), py::arg("tail"), py::arg("head"), py::arg("latency_ns"),
             py::arg("value"), "Take int32 tail and head, int64 latency_ns, float64 value [arcs].")
        .def_property_readonly("last_position",
                               [](const Problem& made) { return made.given(made.last_position()); })
        .def_property_readonly("arc_count", &Problem::arc_count)
        .def_property_readonly("least_latency_ns", &Problem::least_latency_ns,
                               "Latency of the fastest path.");

    py::class_<LatencyTable>(m, "LatencyTable", "Signature of a merged convolution -> latency.")
        .def(py::init([](const py::array& signature, const py::array& latency_ns) {
                 const Signatures rows = signature_rows(signature);
                 return LatencyTable(rows, column<std::int64_t>(latency_ns, "latency_ns"));
             }),
             py::arg("signature"), py::arg("latency_ns"),
             "Take int64 signature [rows, width] and int64 latency_ns [rows].")
        .def("__len__", &LatencyTable::size)
        .def("lookup", &lookup, py::arg("signature"), "Latency of each row, int64 [rows].");

    py::class_<Solution>(m, "Solution", "A path within a budget, and what is proven about it.")
        .def_property_readonly(
            "arcs", [](const Solution& found) { return to_array<std::int32_t>(found.path.arcs); })
        .def_property_readonly("value", [](const Solution& found) { return found.path.value; })
        .def_property_readonly("latency_ns",
                               [](const Solution& found) { return found.path.latency_ns; })
        .def_readonly("upper_bound", &Solution::upper_bound)
        .def_readonly("optimal", &Solution::optimal)
        .def_readonly("ties_resolved", &Solution::ties_resolved)
        .def_readonly("arcs_left", &Solution::arcs_left, "Arcs that the bounds left to search.")
        .def_readonly("labels", &Solution::labels, "Labels made by the search.")
        .def_readonly("seconds", &Solution::seconds, "Time that the search took.");

    m.def("solve_exact", &exact, py::arg("problem"), py::arg("budgets_ns"), py::kw_only(),
          py::arg("gap") = ExactOptions{}.gap,
          py::arg("memory_limit_bytes") = ExactOptions{}.memory_limit_bytes,
          "Return the best path of each budget, proven.");

    m.def("frontier", &all_budgets, py::arg("problem"), py::kw_only(),
          py::arg("max_points") = py::none(), py::arg("epsilon") = FrontierOptions{}.epsilon,
          py::arg("memory_limit_bytes") = FrontierOptions{}.memory_limit_bytes,
          "Return (latency_ns int64 [n], value float64 [n], error) of the non-dominated paths.");

    m.def(
        "kernel_sizes", &segment_kernel_sizes, py::arg("growth_h"), py::arg("growth_w"),
        py::arg("weight_l1"), py::arg("irreducible"), py::arg("depthwise"), py::kw_only(),
        py::arg("program") = py::array_t<std::int32_t>(0), py::arg("max_kernel_h") = py::none(),
        py::arg("max_kernel_w") = py::none(),
        "Return (kernel_size int32 [n, 2], is_depthwise bool [n], weight_l1 float64 [n], "
        "kept bool [n, layers]): each achievable kernel size with its best kept layers, and the "
        "empty set where it is possible. `program` (int32, postfix) connects the layers: an index, "
        "or -1 series, -2 sum, -3 join, -4 identity, -5 - index a window without a layer; empty: "
        "all in series.");

    m.def("solve_binned", &binned, py::arg("problem"), py::arg("budget_ns"), py::kw_only(),
          py::arg("bin_ns"), py::arg("rounding") = "up",
          py::arg("memory_limit_bytes") = BinnedOptions{}.memory_limit_bytes,
          "Return (arcs int32 [n], value, latency_ns) of the best path within the budget.");
}
