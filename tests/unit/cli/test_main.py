"""cli/__main__.py: verbs, exit status, start-up."""

from __future__ import annotations

import subprocess
import sys
import types
from argparse import ArgumentParser, Namespace
from collections.abc import Callable

import pytest

from optalloc import __version__
from optalloc.cli import __main__ as cli
from optalloc.errors import (
    CertificateError,
    ExportError,
    InputError,
    MissingExtra,
    NoPlan,
    OptallocError,
)
from optalloc.result import Bounds, Result, Stats, Termination


def _verb(monkeypatch: pytest.MonkeyPatch, run: Callable[[Namespace], int]) -> None:
    """A verb ``try`` that runs ``run``."""
    module = types.ModuleType("optalloc_test_verb")

    def add_arguments(parser: ArgumentParser) -> None:
        parser.add_argument("--count", type=int, default=0)
        parser.add_argument("--kind", choices=["fast", "small"])

    module.__dict__.update(add_arguments=add_arguments, run=run)
    monkeypatch.setitem(sys.modules, "optalloc_test_verb", module)
    monkeypatch.setitem(cli.VERBS, "try", ("optalloc_test_verb", "a verb for tests"))


def _ended(how: Termination) -> Result:
    """A result without a plan."""
    return Result(termination=how, bounds=Bounds(), stats=Stats())


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """On stdout, with status 0."""
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in cli.VERBS)


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """One line."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"optalloc {__version__}\n"


def test_an_unknown_verb_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, on stderr."""
    assert cli.main(["inspct"]) == 2
    shown = capsys.readouterr()
    assert "did you mean 'inspect'?" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("status", [0, 3, 4, 5])
def test_the_verb_decides_the_status(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Done, infeasible, limit, gap left."""
    _verb(monkeypatch, lambda arguments: status + arguments.count)
    assert cli.main(["try", "--count", "0"]) == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("count is 0", path="a.toml"), 2),
        (ExportError("vllm", "it"), 2),
        (MissingExtra("torch", "torch"), 2),
        (NoPlan("none", _ended(Termination.INFEASIBLE)), 3),
        (NoPlan("none", _ended(Termination.LIMIT)), 4),
        (CertificateError("bound is wrong"), 1),
        (OptallocError("other"), 1),
    ],
)
def test_errors_become_a_status_and_one_line(
    error: OptallocError,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No traceback; ``--debug`` raises instead."""

    def run(_: Namespace) -> int:
        raise error

    _verb(monkeypatch, run)
    assert cli.main(["try"]) == status
    assert capsys.readouterr().err == f"optalloc: {error}\n"
    with pytest.raises(type(error)):
        cli.main(["--debug", "try"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--count", "many"],
            "'many' is no whole number. Where: --count. To fix: write digits alone",
        ),
        (
            ["--count"],
            "--count has no value. Where: optalloc try. To fix: write it behind; one that "
            "begins with '-' as --count=-1",
        ),
        (
            ["--kind", "fst"],
            "'fst' is no value of --kind. Where: optalloc try. To fix: did you mean",
        ),
        (
            ["--kind", "9"],
            "'9' is no value of --kind. Where: optalloc try. To fix: use one of fast",
        ),
    ],
)
def test_a_wrong_argument_is_bad_input(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One paragraph, without the usage that argparse prints, and the status of bad input."""
    _verb(monkeypatch, lambda _: 0)
    assert cli.main(["try", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"optalloc: {said}")
    assert printed.err.count("\n") == 1


def test_a_closed_pipe_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """``optalloc inspect devices | head -1``."""

    def run(_: Namespace) -> int:
        raise BrokenPipeError

    _verb(monkeypatch, run)
    assert cli.main(["try"]) == 0


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_only_the_standard_library_is_imported_before_the_verb(words: list[str]) -> None:
    """Every loaded module is the package's own, the library's, or built in."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "from optalloc.cli.__main__ import main\n"
        f"main({words!r})\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.strip() == "['optalloc']"


def test_every_verb_names_a_module_that_exists() -> None:
    """With the two functions that the dispatcher calls."""
    import importlib

    for path, text in cli.VERBS.values():
        module = importlib.import_module(path)
        assert callable(module.add_arguments)
        assert callable(module.run)
        assert text


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("--formatt", "did you mean '--format'?"),
        ("--zzz=3", "'optalloc inspect --help' lists what it takes"),
        ("surplus", "'optalloc inspect --help' lists what it takes"),
    ],
)
def test_a_word_that_a_verb_does_not_take_is_named_with_a_fix(
    word: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What, where and how, and the status of bad input."""
    assert cli.main(["inspect", "models", word]) == 2
    shown = capsys.readouterr()
    assert word.partition("=")[0] in shown.err
    assert "optalloc inspect" in shown.err
    assert fix in shown.err
    assert shown.out == ""


def test_a_misspelt_option_is_blamed_before_what_is_missing_for_want_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``--cluster`` is missing because it was written ``--cluser``; left out, it is missing."""
    flags = ["--global-batch", "8", "--seq-len", "8"]
    assert cli.main(["train", "gpt2", "--cluser", "8xh100-sxm", *flags]) == 2
    shown = capsys.readouterr().err
    assert "unknown option '--cluser'" in shown
    assert "did you mean '--cluster'?" in shown
    assert cli.main(["train", "gpt2", *flags]) == 2
    assert "required: --cluster" in capsys.readouterr().err


def test_the_option_meant_is_named_as_it_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    """``--trace-all`` stands in brackets in the usage, for it takes no value."""
    assert cli.main(["simulate", "plan.json", "--trace-alll"]) == 2
    assert "did you mean '--trace-all'?" in capsys.readouterr().err
