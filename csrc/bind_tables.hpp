#pragma once

#include <pybind11/pybind11.h>

// Adds the reader of tables as text.
void bind_tables(pybind11::module_& m);
