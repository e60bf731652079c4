"""An answer and its file: neither is lost with the other."""

from __future__ import annotations

import pytest

from optalloc.cli.answers import answered


def test_the_file_is_written_though_the_reader_of_the_answer_has_gone() -> None:
    saved: list[str] = []
    with pytest.raises(BrokenPipeError), answered("plan.json", saved.append):
        raise BrokenPipeError
    assert saved == ["plan.json"]


def test_the_answer_is_printed_though_the_file_cannot_be_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(path: str) -> None:
        raise OSError(path)

    with pytest.raises(OSError, match=r"plan\.json"), answered("plan.json", refuse):
        print("the answer")
    assert capsys.readouterr().out == "the answer\n"


def test_without_a_path_nothing_is_saved() -> None:
    saved: list[str] = []
    with answered(None, saved.append):
        pass
    assert saved == []
