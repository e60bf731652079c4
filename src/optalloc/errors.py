"""Every error a caller can meet.

    OptallocError
    +- InputError            a file or argument is wrong: where, why, how to fix it
    |  +- UnsupportedModel   a known file of an unknown architecture; lists near ones
    |  +- FormatVersionError a file of a format version this release does not read
    +- NoPlan                a plan was asked of a result that has none; carries the result
    +- CertificateError      a solver's claim failed its check: always a bug of this package
    +- MissingExtra          an optional dependency is absent; names the extra to install
    +- ExportError           the target cannot express the plan; names the feature and the stage

Infeasible is a result, never an exception.
"""

from __future__ import annotations

from collections.abc import Iterable


class OptallocError(Exception):
    """Base of every error the package raises on purpose."""


class InputError(OptallocError):
    """A file or an argument is wrong.

    Parameters
    ----------
    what : str
        One sentence on what is wrong.
    path : str
        The file or the argument, for example ``cluster.toml`` or ``--pin``; empty when there is
        none.
    pointer : str
        The place inside it, for example ``$.nodes[2].link`` or ``line 4, column 7``.
    fix : str
        One sentence on what to do.
    """

    def __init__(self, what: str, *, path: str = "", pointer: str = "", fix: str = "") -> None:
        self.what, self.path, self.pointer, self.fix = what, path, pointer, fix
        where = " at ".join(part for part in (path, pointer) if part)
        parts = [what.rstrip(".") + "."]
        if where:
            parts.append(f"Where: {where}.")
        if fix:
            parts.append(f"To fix: {fix.rstrip('.')}{'' if fix.endswith('?') else '.'}")
        super().__init__(" ".join(parts))


class UnsupportedModel(InputError):
    """The configuration names an architecture this release does not know."""


class FormatVersionError(InputError):
    """The file has a format version this release does not read."""


class NoPlan(OptallocError):
    """A plan was asked of a result that has none; ``result`` says why."""

    def __init__(self, what: str, result: object) -> None:
        self.result = result
        super().__init__(what)


class CertificateError(OptallocError):
    """A claim failed its independent check. This is a bug: please report it with the input."""


class MissingExtra(OptallocError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        self.extra = extra
        super().__init__(
            f"{package} is not installed. Install it with: pip install 'optalloc[{extra}]'."
        )


class ExportError(OptallocError):
    """The target cannot express the plan.

    ``feature`` is what it lacks and ``stage`` the pipeline stage concerned (None: the whole plan).
    """

    def __init__(
        self, target: str, feature: str, *, stage: int | None = None, fix: str = ""
    ) -> None:
        self.target, self.feature, self.stage = target, feature, stage
        where = "" if stage is None else f" (stage {stage})"
        tail = f" To fix: {fix.rstrip('.')}." if fix else ""
        super().__init__(f"{target} cannot express {feature}{where}.{tail}")


def nearest(word: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Known words closest to ``word``, best first, for "did you mean" hints."""
    import difflib  # only where a word is wrong

    lowered = {name.lower(): name for name in known}
    return [lowered[m] for m in difflib.get_close_matches(word.lower(), lowered, count, 0.5)]


def known_fix(word: str, known: Iterable[str], form: str = "{!r}") -> str:
    """How to fix an unknown word: the nearest known one in this form, or the list of them."""
    names = list(known)
    near = nearest(word, names, count=1)
    return f"did you mean {form.format(near[0])}?" if near else f"use one of {', '.join(names)}"
