#pragma once

#include <pybind11/pybind11.h>

#include "interrupt.hpp"

// Python runs signal handlers in its main thread only: other threads have nothing to ask.
inline layermerge::Interrupt python_interrupt() {
    namespace py = pybind11;
    const py::object threading = py::module_::import("threading");
    if (!threading.attr("current_thread")().is(threading.attr("main_thread")())) return {};
    return layermerge::Interrupt([] {
        const py::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    });
}
