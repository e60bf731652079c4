"""Fit the constants of the cost model to published measurements.

The parameters are the fitted constants and the shifts of devices, frameworks, precisions, releases
and sites; :mod:`optalloc.cost.descent` has the method. Half of the weight is shared by all rows
alike and half by the sources alike, so that neither the largest source nor the smallest decides
alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.cost.constants import Cell, Constants, ConstantsFile, linked
from optalloc.cost.descent import (
    Array,
    Ints,
    Measured,
    Parameter,
    descend,
    priors,
    unlinked_rows,
    written,
)
from optalloc.cost.measured.problem import Problem
from optalloc.cost.meshes import Meshes
from optalloc.cost.model import CostModel
from optalloc.cost.predict import Choice, cost_of, mixed_s, predict, problem_keys
from optalloc.cost.stack import Stack, structure
from optalloc.errors import InputError

# Of one spread; the weights of the rows sum to one, so that of fewer rows than these each counts no
# more than it would among them. With 9 rows of a machine that is a fifth slower, the others come
# out within 7 % (12 % without this, 15 % as shipped), with 36 within 3 % (4 %).
_PENALTY, _FULL_ROWS = 2e-4, 300
_LEAST_ROWS = 8
_LEAST_ERROR = 0.015  # what the same run takes more or less when it is measured again


class _Batch(msgspec.Struct, frozen=True):
    """Rows evaluated as one stack; a row of mixed devices has one entry a stage, in order."""

    rows: NDArray[np.int64]
    costs: tuple[CostModel, ...]
    choices: tuple[Choice, ...]
    meshes: Meshes
    stack: Stack
    share: Array

    def times(self, constants: Constants) -> Array:
        """Step times, seconds; the constants are arrays of one entry an entry of the batch."""
        self.stack.set_constants(constants)
        tables = self.stack.tables(self.meshes)
        found = tables.real("fixed_s").copy()
        stages = Counter(self.rows.tolist())
        for k, (cost, choice) in enumerate(zip(self.costs, self.choices, strict=True)):
            count = stages[int(self.rows[k])]
            if count > 1:
                first = int(np.searchsorted(self.rows, self.rows[k]))
                own = range(first, first + count)
                parts = [tables.take(np.array([i])) for i in own]
                found[k] = mixed_s([self.costs[i] for i in own], parts, choice, 0)
                continue
            pp = int(self.meshes.pp[k])
            value, _, _ = _native.evaluate_mesh(
                tables.ints[k : k + 1],
                tables.reals[k : k + 1],
                tables.layers[k : k + 1],
                cost.sequence,
                cost.boundary,
                list(choice.layers),
                [choice.full] * pp,
                [choice.selective] * pp,
            )
            found[k] += value
        times: Array = found * self.share
        return times


class Rows:
    """Measured rows prepared for fits: what the rows leave open is decided once, by ``file``."""

    def __init__(self, problems: Sequence[Problem], file: ConstantsFile) -> None:
        self.problems = [p for p in problems if p.measured_s is not None]
        self.log_s = np.log([p.measured_s or 1.0 for p in self.problems])
        self.keys = [problem_keys(problem) for problem in self.problems]
        groups: dict[object, list[tuple[int, CostModel, Choice]]] = defaultdict(list)
        for i, problem in enumerate(self.problems):
            choice = predict(problem, file).choice
            costs = [cost_of(problem, cluster, file) for cluster in problem.clusters]
            groups[structure(costs[0])] += [(i, cost, choice) for cost in costs]
        self.batches = [self._batch(members) for members in groups.values()]

    def __len__(self) -> int:
        return len(self.problems)

    def _batch(self, members: list[tuple[int, CostModel, Choice]]) -> _Batch:
        rows = np.array([i for i, _, _ in members])
        costs = tuple(cost for _, cost, _ in members)
        choices = tuple(choice for _, _, choice in members)
        parts = [
            self.problems[i].meshes.take(slice(choice.mesh, choice.mesh + 1))
            for i, _, choice in members
        ]
        meshes = Meshes(
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in Meshes.__struct_fields__
            }
        )
        share = np.array([self.problems[i].share for i in rows])
        return _Batch(rows, costs, choices, meshes, Stack(costs, meshes), share)

    def log_times(self, constants: dict[str, Array]) -> Array:
        """Logarithms of the predicted step times; constants of shape (rows,)."""
        found = np.empty(len(self))
        for batch in self.batches:
            own = Constants(**{name: each[batch.rows] for name, each in constants.items()})  # type: ignore[arg-type]
            found[batch.rows] = np.log(batch.times(own))
        return found


class Fit:
    """The parameters of a constants file over some rows, and how to move them."""

    def __init__(self, rows: Rows, file: ConstantsFile) -> None:
        self.rows, self.file = rows, file
        self.names = [name for name, c in file.constants.items() if c.prior is not None]
        self.parameters: list[Parameter] = [("", "", name) for name in self.names]
        for level, spreads in file.spreads.items():
            for key in sorted({keys[level] for keys in rows.keys} - {""}):
                self.parameters += [(level, key, name) for name in spreads]
        self.prior, self.spread = priors(self.parameters, file.constants, file.spreads)
        self.masks = np.array([self._mask(p) for p in self.parameters])
        self.constant = np.array([self.names.index(name) for _, _, name in self.parameters])

    def _mask(self, parameter: Parameter) -> Array:
        """Rows that the parameter concerns: those of its key whose constant is not set."""
        level, key, name = parameter
        table = self.file.set
        return np.array(
            [
                float(
                    (not level or keys[level] == key)
                    and not any(name in table.get(n, {}).get(k, {}) for n, k in keys.items())
                )
                for keys in self.rows.keys
            ]
        )

    # -- evaluation ------------------------------------------------------------------------------

    def scales(self, z: Array) -> Array:
        """Every fitted constant of every row on the scale of its link, shape (names, rows)."""
        scales = np.zeros((len(self.names), len(self.rows)))
        np.add.at(scales, self.constant, z[:, None] * self.masks)
        return scales

    def _constants(self, scales: Array) -> dict[str, Array]:
        n = len(self.rows)
        found = {name: np.full(n, c.value) for name, c in self.file.constants.items()}
        found["expert_imbalance"] = np.ones(n)  # the measured runs force balanced routing
        for name, scale in zip(self.names, scales, strict=True):
            found[name] = unlinked_rows(scale, self.file.constants[name])
        for level, table in self.file.set.items():
            for key, fixed in table.items():
                own = np.array([keys[level] == key for keys in self.rows.keys])
                for name, value in fixed.items():
                    found[name] = np.where(own, value, found[name])
        return found

    def figures(self, scales: Array) -> Array:
        """Logarithms of the predicted step times of all rows."""
        return self.rows.log_times(self._constants(scales))

    def log_times(self, z: Array) -> Array:
        """Logarithms of the predicted step times of all rows."""
        return self.figures(self.scales(z))

    # -- the search for the minimum --------------------------------------------------------------

    def solve(self, used: Ints, start: Array | None = None, rounds: int = 8) -> Array:
        """The parameters that fit the rows ``used`` best; those they do not concern stay at prior.

        Complexity: that of :func:`optalloc.cost.descent.descend`.
        """
        weight = _weights([self.rows.problems[i] for i in used])
        measured = Measured(place=(used,), log=self.rows.log_s[used], weight=weight)
        active = np.flatnonzero(self.masks[:, used].any(axis=1))
        return descend(
            self,
            measured,
            active,
            penalty=_PENALTY * max(1.0, _FULL_ROWS / len(used)),
            least_error=_LEAST_ERROR,
            start=start,
            rounds=rounds,
        )

    # -- results ---------------------------------------------------------------------------------

    def given(self) -> Array:
        """The parameters that the file states."""
        constants, shifts = self.file.constants, self.file.shifts
        found = [
            shifts.get(level, {}).get(key, {}).get(name, 0.0)
            if level
            else linked(constants[name].value, constants[name].link)
            for level, key, name in self.parameters
        ]
        return np.array(found)

    def file_of(self, z: Array, date: str = "", name: str = "") -> ConstantsFile:
        """The constants file with these parameters."""
        constants, shifts = written(self.parameters, z, self.file.constants)
        return msgspec.structs.replace(
            self.file,
            name=name or self.file.name,
            date=date or self.file.date,
            constants=constants,
            shifts=shifts,
            errors=(),
        )


def _weights(problems: Sequence[Problem]) -> Array:
    """Half of the weight to every row alike, half to every source alike; they sum to one."""
    counts = Counter(problem.source for problem in problems)
    per_source = [0.5 / (len(counts) * max(counts[p.source], 4)) for p in problems]
    return np.array(per_source) + 0.5 / len(problems)


def fold_of(problems: Sequence[Problem], folds: int, seed: int = 0) -> NDArray[np.int64]:
    """A fold for each row; rows of one group, which are nearly the same run, share theirs."""
    names = [p.row.get("group", "") or p.row_id for p in problems]
    groups = sorted(set(names))
    np.random.default_rng(seed).shuffle(groups)
    place = {group: k % folds for k, group in enumerate(groups)}
    return np.array([place[name] for name in names])


def cells(
    keys: Sequence[dict[str, str]],
    errors: Sequence[float],
    unseen: Sequence[float],
    sources: Sequence[str],
) -> tuple[Cell, ...]:
    """Cells of the errors by device, framework and precision, and of two and three of them.

    ``errors`` are relative errors of rows that were not fitted, signed; ``unseen`` those of rows of
    a source that was left out entirely, which stand for any problem without a cell of its own;
    there every one of the ``sources`` counts alike.
    """
    levels = ("gpu", "framework", "precision")
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for key, error in zip(keys, errors, strict=True):
        for pattern in (7, 3, 5, 2, 1, 4):
            cell = tuple(key[n] if pattern >> k & 1 else "" for k, n in enumerate(levels))
            groups[cell].append(error)
    counts = Counter(sources)
    found = [_cell(unseen, [1.0 / counts[source] for source in sources])]
    for cell in sorted(groups):
        found.append(
            msgspec.structs.replace(_cell(groups[cell]), **dict(zip(levels, cell, strict=True)))
        )
    return tuple(found)


def _cell(errors: Sequence[float], weights: Sequence[float] | None = None) -> Cell:
    each = np.ones(len(errors)) if weights is None else np.array(weights)
    return Cell(
        rows=len(errors),
        bias=round(_quantile(np.array(errors), each, 0.5), 4),
        error_90=round(_quantile(np.abs(errors), each, 0.9), 4),
    )


def _quantile(values: Array, weights: Array, share: float) -> float:
    """The smallest value that at least this share of the weight does not exceed."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    place = int(np.searchsorted(reached, share - 1e-12))
    return float(values[order][min(place, len(order) - 1)])


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A fit and how well it does: relative errors of the step time, signed, shape (rows,).

    ``fitted`` on the rows that it was fitted to, ``folds`` with the groups of a row left out of the
    fit, ``sources`` with its whole source left out; None where it was not judged.
    """

    file: ConstantsFile
    problems: tuple[Problem, ...]
    fitted: Array
    folds: Array | None
    sources: Array | None


def calibrate(
    problems: Sequence[Problem],
    file: ConstantsFile,
    *,
    name: str,
    date: str,
    folds: int = 5,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Fit the constants of ``file`` to rows, and judge the fit on rows that are left out of it.

    The descent starts from the constants of ``file``. With no ``folds`` it is not judged, and keeps
    the errors that ``file`` states.

    Raises
    ------
    InputError
        If fewer than eight rows have a step time.

    Complexity: about ``(rounds + 2 folds + 3 sources) * constants`` passes over the rows.
    """
    rows = Rows(problems, file)
    fit = Fit(rows, file)
    if len(rows) < _LEAST_ROWS:
        raise InputError(
            f"{len(rows)} rows have a step time, a fit needs {_LEAST_ROWS}",
            path="ROWS",
            fix="give more measurements",
        )
    on_progress(f"fitting {len(fit.parameters)} parameters to {len(rows)} rows")
    z = fit.solve(np.arange(len(rows)), fit.given(), rounds=10)
    kept = rows.problems
    final = fit.file_of(z, date=date, name=name)
    fitted = np.exp(fit.log_times(z) - rows.log_s) - 1.0
    if not folds:
        return Calibration(
            file=msgspec.structs.replace(final, errors=file.errors),
            problems=tuple(kept),
            fitted=fitted,
            folds=None,
            sources=None,
        )
    names = list(dict.fromkeys(p.source for p in kept))
    sources = np.array([names.index(p.source) for p in kept])
    errors = []
    for what, parts in (("folds", fold_of(kept, folds)), ("sources", sources)):
        found = np.zeros(len(rows))
        count = int(parts.max()) + 1
        for part in range(count):
            on_progress(f"leaving out {what}: {part + 1} of {count}")
            used = np.flatnonzero(parts != part)
            other = fit.solve(used, z, rounds=3) if len(used) and count > 1 else z
            own = parts == part
            found[own] = (np.exp(fit.log_times(other) - rows.log_s) - 1.0)[own]
        errors.append(found)
    cross, unseen = errors
    final = msgspec.structs.replace(
        final,
        errors=cells(rows.keys, cross.tolist(), unseen.tolist(), [p.source for p in kept]),
    )
    return Calibration(file=final, problems=tuple(kept), fitted=fitted, folds=cross, sources=unseen)
