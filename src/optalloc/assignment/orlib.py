"""OR-Library text: ``m n``, m rows of n costs, m rows of n loads, m capacities, all unit-major.

A file holds one instance, or begins with the number of instances it holds.

References: Beasley, "OR-Library: distributing test problems by electronic mail", J. Oper. Res. Soc.
41 (1990) 1069-1072.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import numpy.typing as npt

from optalloc.assignment.integers import NumberArray
from optalloc.assignment.problem import AssignmentProblem
from optalloc.errors import InputError


def read_orlib(
    text: str, *, path: str, index: int | None = None
) -> tuple[NumberArray, NumberArray, NumberArray]:
    """Costs and loads of shape (num_tasks, num_units) and capacities of shape (num_units,).

    Parameters
    ----------
    text : str
        The file's content.
    path : str
        Its name, for messages.
    index : int, optional
        Which instance, counted from 0, where the file holds several.
    """
    words = _Words(text, path)
    if words.holds_one():
        if index not in (None, 0):
            raise words.error(f"there is no instance {index}, the file holds one", 0, "use index 0")
        instance = words.instance(0)[0]
        return instance
    count = words.count(0, "the number of instances or of units")
    # Two numbers on the first line: a single instance with numbers left over or missing.
    if words.line(1) == words.line(0):
        instance, end = words.instance(0)
        raise words.error(
            f"{len(words.words) - end} numbers are left over after the last capacity",
            end,
            "give m rows of n costs, m rows of n loads and m capacities",
        )
    if index is None and count > 1:
        raise words.error(
            f"the file holds {count} instances",
            0,
            f"say which one: index 0 to {count - 1}, or split the file",
        )
    wanted = index or 0
    if not 0 <= wanted < count:
        raise words.error(
            f"there is no instance {wanted}, the file holds {count}",
            0,
            f"use an index from 0 to {count - 1}",
        )
    start = 1
    for _ in range(wanted):
        start = words.instance(start)[1]
    return words.instance(start)[0]


def orlib_text(problem: AssignmentProblem, *, path: str) -> str:
    """The instance as OR-Library text; refuses what the format cannot say."""
    if not problem.allowed.all():
        raise InputError(
            "OR-Library text cannot forbid pairs", path=path, fix="save as .json, .csv or .npz"
        )
    if problem.sense == "max":
        raise InputError(
            "OR-Library text does not say that costs are profits",
            path=path,
            fix="save as .json, .csv or .npz",
        )
    lines = [f"{problem.num_units} {problem.num_tasks}"]
    for matrix in (problem.costs, problem.loads_matrix):
        lines += [" ".join(map(repr, row)) for row in matrix.T.tolist()]
    lines.append(" ".join(map(repr, problem.capacities.tolist())))
    return "\n".join(lines) + "\n"


class _Words:
    """The numbers of a text and where each stands."""

    def __init__(self, text: str, path: str) -> None:
        self.path, self.text, self.words = path, text, text.split()

    def line(self, position: int) -> int:
        """Line of a word, from 1; of the end of the text for a position past the last word."""
        ahead = itertools.islice(re.finditer(r"\S+", self.text), position, None)
        match = next(ahead, None)
        end = len(self.text) if match is None else match.start()
        return self.text.count("\n", 0, end) + 1

    def error(self, what: str, position: int, fix: str) -> InputError:
        return InputError(what, path=self.path, pointer=f"line {self.line(position)}", fix=fix)

    def count(self, position: int, what: str) -> int:
        if position >= len(self.words):
            raise self.error(f"the file ends before {what}", position, "it may be cut off")
        word = self.words[position]
        if not word.isdecimal() or len(word) > 9:
            raise self.error(f"{word!r} is not {what}", position, "give a whole number")
        return int(word)

    def holds_one(self) -> bool:
        """Whether the first two numbers explain the length of the file."""
        head = self.words[:2]
        if len(head) < 2 or not all(word.isdecimal() and len(word) < 10 for word in head):
            return False
        units, tasks = int(head[0]), int(head[1])
        return len(self.words) == 2 + 2 * units * tasks + units

    def instance(self, start: int) -> tuple[tuple[NumberArray, NumberArray, NumberArray], int]:
        """The instance that begins at a position, and the position after it."""
        units = self.count(start, "the number of units")
        tasks = self.count(start + 1, "the number of tasks")
        if units == 0:
            raise self.error("the instance has no unit", start, "give at least one unit")
        size = units * tasks
        middle = start + 2
        costs = self.numbers(middle, size, "costs").reshape(units, tasks)
        loads = self.numbers(middle + size, size, "loads").reshape(units, tasks)
        end = middle + 2 * size + units
        capacities = self.numbers(middle + 2 * size, units, "capacities")
        return (costs.T, loads.T, capacities), end

    def numbers(self, start: int, count: int, what: str) -> NumberArray:
        if start + count > len(self.words):
            have = max(0, len(self.words) - start)
            raise self.error(
                f"the file ends after {have} of {count} {what}",
                len(self.words),
                "it may be cut off, or the first two numbers are wrong",
            )
        words = self.words[start : start + count]
        if re.fullmatch(r"(?:[-+]?\d{1,18} )*+", " ".join([*words, ""])):
            whole: npt.NDArray[np.int64] = np.array(list(map(int, words)), dtype=np.int64)
            return whole
        values: list[float] = []
        for offset, word in enumerate(words):
            try:
                values.append(float(word))
            except ValueError as error:
                raise self.error(
                    f"{word!r} is not a number", start + offset, "give a number"
                ) from error
        return np.array(values, dtype=np.float64)
