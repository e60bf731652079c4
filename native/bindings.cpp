// Python bindings of the native kernels: the only file that knows Python.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of optalloc; each has a NumPy reference beside it in Python.";
}
