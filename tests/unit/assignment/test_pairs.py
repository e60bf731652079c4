"""Sources of pairs: arrays mapped from a folder or an archive, checked when they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from optalloc.assignment.pairs import ArraySource, open_pairs
from optalloc.errors import InputError

Longs = npt.NDArray[np.int64]


@pytest.fixture
def arrays() -> dict[str, Longs]:
    """Six tasks on three units."""
    rng = np.random.default_rng(0)
    costs = rng.integers(-9, 9, (6, 3))
    return {"costs": costs, "loads": rng.integers(0, 5, (6, 3)), "capacities": np.full(3, 9)}


def _assert_equal(source: ArraySource, arrays: dict[str, Longs]) -> None:
    costs, loads = source.rows(2, 5)
    assert np.array_equal(costs, arrays["costs"][2:5])
    assert np.array_equal(loads, arrays["loads"][2:5])
    assert np.array_equal(source.capacities, arrays["capacities"])


def test_folder_and_archives_hold_the_same(tmp_path: Path, arrays: dict[str, Longs]) -> None:
    """A folder and a plain archive are mapped, a compressed archive is unpacked."""
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array.astype(np.int32))
    np.savez(tmp_path / "plain.npz", **arrays)  # type: ignore[arg-type]
    np.savez_compressed(tmp_path / "packed.npz", **arrays)  # type: ignore[arg-type]
    for path, mapped in (
        (tmp_path, True),
        (tmp_path / "plain.npz", True),
        (tmp_path / "packed.npz", False),
    ):
        source = open_pairs(path)
        assert isinstance(source.costs, np.memmap) == mapped
        _assert_equal(source, arrays)


def test_fortran_order_and_the_sense_are_read(tmp_path: Path, arrays: dict[str, Longs]) -> None:
    arrays["costs"] = np.asfortranarray(arrays["costs"])
    np.savez(tmp_path / "a.npz", sense=np.array("max"), **arrays)  # type: ignore[arg-type]
    source = open_pairs(tmp_path / "a.npz")
    assert source.sense == "max"
    _assert_equal(source, arrays)


def test_one_load_a_task_and_forbidden_pairs() -> None:
    """A forbidden pair loads more than any unit holds."""
    allowed = np.array([[True, False], [True, True]])
    source = ArraySource(np.ones((2, 2), np.int64), np.array([1, 2]), [3, 5], allowed)
    assert source.rows(0, 2)[1].tolist() == [[1, 6], [2, 2]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"costs": np.zeros((6, 2), np.int64)}, "costs has the shape"),
        ({"loads": np.zeros((5, 3), np.int64)}, "loads has the shape"),
        ({"loads": np.zeros((6, 3))}, "float64"),
        ({"capacities": np.array([[9, 9, 9]])}, "capacities has the shape"),
        ({"capacities": np.array([9, -1, 9])}, "capacity of unit 1"),
    ],
)
def test_wrong_arrays_are_refused_with_their_place(
    tmp_path: Path, arrays: dict[str, Longs], change: dict[str, npt.NDArray[np.generic]], words: str
) -> None:
    for name, array in {**arrays, **change}.items():
        np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(InputError, match=words) as caught:
        open_pairs(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_bad_numbers_are_named_when_they_are_read(arrays: dict[str, Longs]) -> None:
    arrays["loads"][4, 1] = -1
    source = ArraySource(arrays["costs"], arrays["loads"], arrays["capacities"])
    with pytest.raises(InputError, match=r"loads\[4,1\]"):
        source.rows(3, 6)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="cannot be read"):
        open_pairs(tmp_path / "a.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no array 'costs'"):
        open_pairs(tmp_path / "empty")
    (tmp_path / "empty" / "costs.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        open_pairs(tmp_path / "empty")
