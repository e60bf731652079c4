"""Instance files, read and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from optalloc.assignment.formats import load_assignment, save_assignment
from optalloc.assignment.problem import AssignmentProblem
from optalloc.errors import FormatVersionError, InputError

TEXT = "2 3\n4 6 1\n7 9 8\n2 1 5\n3 4 6\n7 4\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_orlib_text_is_unit_major(tmp_path: Path) -> None:
    """Two units, three tasks: the first row holds the costs of all tasks on unit 0."""
    problem = load_assignment(write(tmp_path, "a.txt", TEXT))
    assert problem.costs.tolist() == [[4, 7], [6, 9], [1, 8]]
    assert problem.loads.tolist() == [[2, 3], [1, 4], [5, 6]]
    assert problem.capacities.tolist() == [7, 4]


def test_line_breaks_of_orlib_text_do_not_matter(tmp_path: Path) -> None:
    one = load_assignment(write(tmp_path, "a.txt", TEXT))
    assert load_assignment(write(tmp_path, "b.txt", TEXT.replace(" ", "\n"))) == one


def test_several_instances_need_an_index(tmp_path: Path) -> None:
    path = write(tmp_path, "many.txt", "2\n" + TEXT + "1 1\n5\n6\n7\n")
    with pytest.raises(InputError, match=r"holds 2 instances.*index 0 to 1"):
        load_assignment(path)
    assert load_assignment(path, index=0).num_tasks == 3
    assert load_assignment(path, index=1).costs.tolist() == [[5]]
    with pytest.raises(InputError, match="no instance 2"):
        load_assignment(path, index=2)


def test_a_count_of_one_needs_no_index(tmp_path: Path) -> None:
    assert load_assignment(write(tmp_path, "a.txt", "1\n" + TEXT)).num_tasks == 3


@pytest.mark.parametrize("suffix", [".txt", ".json", ".csv", ".npz"])
@pytest.mark.parametrize("decimals", [0, 3])
def test_save_then_load_is_identity(tmp_path: Path, suffix: str, decimals: int) -> None:
    rng = np.random.default_rng(3)
    costs = np.round(rng.random((5, 3)) * 100, decimals)
    loads = np.round(rng.random((5, 3)) * 10, decimals)
    if decimals == 0:
        costs, loads = costs.astype(int), loads.astype(int)
    problem = AssignmentProblem(costs, loads, [9, 10, 11])
    path = tmp_path / f"instance{suffix}"
    save_assignment(problem, path)
    assert load_assignment(path) == problem


@pytest.mark.parametrize("suffix", [".json", ".csv", ".npz"])
def test_forbidden_pairs_and_profits_are_kept(tmp_path: Path, suffix: str) -> None:
    problem = AssignmentProblem([[1, 2], [3, 4]], [1, 2], [2, 2], [[1, 0], [1, 1]], "max")
    path = tmp_path / f"instance{suffix}"
    save_assignment(problem, path)
    assert load_assignment(path) == problem


def test_orlib_text_refuses_what_it_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot forbid pairs"):
        save_assignment(AssignmentProblem([[1]], [1], [1], [[False]]), tmp_path / "a.txt")
    with pytest.raises(InputError, match="profits"):
        save_assignment(AssignmentProblem([[1]], [1], [1], sense="max"), tmp_path / "a.txt")


def test_the_sense_can_be_overridden(tmp_path: Path) -> None:
    assert load_assignment(write(tmp_path, "a.txt", TEXT), sense="max").sense == "max"


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("a.txt", "2 3\n4 6 1\n7 x 8\n2 1 5\n3 4 6\n7 4\n", "'x' is not a number.*line 3"),
        ("a.txt", "2 3\n4 6 1\n7 9 8\n2 1 5\n", r"ends after 3 of 6 loads.*line 5"),
        ("a.txt", TEXT + "9 9\n", "2 numbers are left over.*line 7"),
        ("a.txt", "", "ends before the number of instances.*line 1"),
        ("a.txt", "hello\n", "'hello' is not the number.*line 1"),
        ("a.txt", TEXT.replace("7 4\n", "7 -4\n"), r"-4 is negative.*\$\.capacities\[1\]"),
        ("a.json", '{"costs": [[1, 2]],\n "loads": [1', "line 2"),
        ("a.json", '{"costs": [[1, 2]], "loads": [1]}', "'capacities' is missing"),
        (
            "a.json",
            '{"costs": [[1]], "loads": [1], "capacity": [1]}',
            "unknown key 'capacity'.*'capacities'",
        ),
        (
            "a.json",
            '{"costs": [[1, 2]], "loads": [1], "capacities": [1]}',
            r"shape \(1, 2\).*\$\.costs",
        ),
        ("a.csv", "kind,task,unit 0\ncapacities,,1\ncosts,0,x\n", "'x' is not a number.*line 3"),
        ("a.csv", "kind,task,unit 0\ncapacities,,1\ncosts,1,4\n", "task 0 is due.*line 3"),
        ("a.csv", "kind,task,unit 0\ncapacity,,1\n", "line 2.*'capacities'"),
        ("a.csv", "kind,task,unit 0\ncapacities,,1,2\n", "4 fields instead of 3.*line 2"),
        ("a.csv", f"kind,{'t' * 200_000},unit 0\n", "no CSV text"),
        ("a.npz", "no archive", "cannot read the file as NPZ"),
    ],
)
def test_a_broken_file_is_named_with_the_place(
    tmp_path: Path, name: str, text: str, where: str
) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(InputError, match=f"(?s){where}") as caught:
        load_assignment(path)
    assert name in str(caught.value)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "a.json",
        '{"format": "optalloc.assignment/2", "costs": [[1]], "loads": [1], "capacities": [1]}',
    )
    with pytest.raises(FormatVersionError, match=r"optalloc\.assignment/1"):
        load_assignment(path)


def test_published_instances_are_read(shared_data: Path) -> None:
    problem = load_assignment(shared_data / "gap" / "chu1997" / "c05100.txt")
    assert (problem.num_tasks, problem.num_units) == (100, 5)


def test_json_keeps_every_form_and_the_others_refuse_it(tmp_path: Path) -> None:
    problem = AssignmentProblem(
        [[1, 2], [3, 4], [5, 6]],
        [[1, 2], [2, 1], [1, 1]],
        [[3, 3], [4, 4]],
        fixed={0: 1},
        together=[[0, 2]],
        apart=[[0, 1]],
        skip_costs=[None, 2.5, None],
        objective="bottleneck-then-sum",
    )
    save_assignment(problem, tmp_path / "a.json")
    assert load_assignment(tmp_path / "a.json") == problem
    for name in ("a.txt", "a.csv", "a.npz"):
        with pytest.raises(InputError, match="one capacity a unit"):
            save_assignment(problem, tmp_path / name)


def test_a_pair_that_does_not_exist_is_named_by_its_place(tmp_path: Path) -> None:
    """Task 7 stands second."""
    text = '{"costs": [[1, 2]], "loads": [1], "capacities": [1, 1], "fixed": [[0, 1], [7, 0]]}'
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="task 7 does not exist") as caught:
        load_assignment(tmp_path / "a.json")
    assert caught.value.pointer == "$.fixed[1]"


def test_a_task_fixed_twice_is_refused(tmp_path: Path) -> None:
    text = '{"costs": [[1, 2]], "loads": [1], "capacities": [1, 1], "fixed": [[0, 1], [0, 0]]}'
    with pytest.raises(InputError, match="fixed twice"):
        load_assignment(write(tmp_path, "a.json", text))
