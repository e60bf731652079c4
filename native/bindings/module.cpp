// The Python module of the native kernels; only this folder knows Python.
#include "bindings/families.hpp"

NB_MODULE(_native, m) {
    namespace bindings = optalloc::bindings;
    m.doc() = "Native kernels of optalloc; each has a NumPy reference beside it in Python.";
    bindings::bind_training(m);
    bindings::bind_mixed(m);
    bindings::bind_assignment(m);
    bindings::bind_rows(m);
    bindings::bind_serving(m);
    bindings::bind_whole(m);
    bindings::bind_simulation(m);
}
