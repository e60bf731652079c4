// One function a family of kernels: each adds its kernels to the Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace optalloc::bindings {

void bind_training(nanobind::module_& m);
void bind_mixed(nanobind::module_& m);
void bind_assignment(nanobind::module_& m);
void bind_rows(nanobind::module_& m);
void bind_serving(nanobind::module_& m);
void bind_whole(nanobind::module_& m);
void bind_simulation(nanobind::module_& m);

}  // namespace optalloc::bindings
