"""The verb offload: what is wrong with its words is said of the flag."""

from __future__ import annotations

import pytest

from optalloc.cli.__main__ import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--machine", "rtx-4090+64gb-ramm"], "'64gb-ramm' is no part of a machine"),
        (["--batch", "0"], "batch is 0. Where: --batch"),
        (["--chunk", "0"], "Where: --chunk"),
        (["--context", "10"], "Where: --context"),
        (
            ["--input-len", "1000000"],
            "longer than the 40960 positions of qwen3-8b. Where: --input-len",
        ),
        (["--context", "1000000"], "positions of qwen3-8b. Where: --context"),
        (["--batch", "9" * 20], "Where: --batch. To fix: give 1 to 1,000,000"),
        (["--dtype", "q9"], "Where: --dtype"),
        (["--expert-dtype", "q4_k"], "qwen3-8b has no experts"),
        (["--min-rate", "3"], "no context is chosen by a speed of 3 tokens/s"),
    ],
)
def test_bad_words_name_the_flag(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["offload", "qwen3-8b", "--machine", "rtx-4090+64gb-ram", *words]
    assert main(given) == 2
    assert said in capsys.readouterr().err
