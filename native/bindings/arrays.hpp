// Arrays across the language border: NumPy's as kernels read them, vectors as NumPy gets them.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace optalloc::bindings {

namespace nb = nanobind;

template <typename T, int Dims>
using Array = nb::ndarray<const T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
template <typename T, int Dims>
using Out = nb::ndarray<T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;

template <typename T>
std::span<const T> view(const Array<T, 1>& array) {
    return {array.data(), array.shape(0)};
}

// A vector handed over to NumPy.
template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> given(std::vector<T>&& values) {
    auto* kept = new std::vector<T>(std::move(values));
    const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return {kept->data(), {kept->size()}, owner};
}

using Longs = Array<std::int64_t, 1>;
using Reals = Array<double, 1>;
using Flags = Array<std::uint8_t, 1>;

}  // namespace optalloc::bindings
