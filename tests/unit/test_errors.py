"""errors.py: what a caller can catch and what the messages say."""

from __future__ import annotations

from optalloc import errors
from optalloc.errors import (
    ExportError,
    FormatVersionError,
    InputError,
    MissingExtra,
    NoPlan,
    OptallocError,
    UnsupportedModel,
    nearest,
)


def test_every_error_of_the_package_is_an_optalloc_error() -> None:
    """One base catches them all."""
    found = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(found) == 8
    assert all(issubclass(kind, OptallocError) for kind in found)


def test_the_drawn_tree_names_every_error() -> None:
    """The docstring's tree is the list of classes, in order of depth."""
    assert errors.__doc__ is not None
    found = {k for k, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)}
    assert all(name in errors.__doc__ for name in found)
    assert issubclass(UnsupportedModel, InputError)
    assert issubclass(FormatVersionError, InputError)


def test_an_input_error_says_what_where_and_how_to_fix() -> None:
    """Three sentences; the parts stay readable for programs."""
    error = InputError("count is 0", path="a.toml", pointer="$.nodes[2]", fix="give at least 1")
    assert str(error) == "count is 0. Where: a.toml at $.nodes[2]. To fix: give at least 1."
    assert (error.what, error.path, error.pointer) == ("count is 0", "a.toml", "$.nodes[2]")


def test_an_input_error_leaves_out_what_it_does_not_know() -> None:
    """No empty ``Where`` or ``To fix``."""
    assert str(InputError("no such thing.")) == "no such thing."
    assert str(InputError("no", fix="did you mean 'a'?")) == "no. To fix: did you mean 'a'?"


def test_the_other_errors_name_their_object() -> None:
    """NoPlan carries the result, MissingExtra the command, ExportError feature and stage."""
    assert NoPlan("infeasible", result := object()).result is result
    assert "pip install 'optalloc[torch]'" in str(MissingExtra("torch", "torch"))
    error = ExportError("megatron", "uneven tp", stage=3, fix="pin tp")
    assert str(error) == "megatron cannot express uneven tp (stage 3). To fix: pin tp."


def test_nearest_finds_a_misspelt_word_and_nothing_for_a_foreign_one() -> None:
    """Case is ignored; the word comes back as it is known."""
    assert nearest("lattency_s", ["latency_s", "devices"]) == ["latency_s"]
    assert nearest("H100_SXM", ["h100-sxm"]) == ["h100-sxm"]
    assert nearest("zzzz", ["latency_s"]) == []
