"""What a search refuses of a cluster: size, makes, and devices that no target starts."""

from __future__ import annotations

import pytest

import optalloc as oa
from optalloc.errors import InputError

ASKED = oa.Serving(input_len=500, output_len=50)
TWO_MAKES = "1xh100-sxm+1xmi300x"


@pytest.mark.parametrize(
    ("cluster", "pin", "target", "words"),
    [
        ("5000xh100-sxm", (), None, "5,000 devices is more than the 4,096"),
        ("1xl4", ("device=l40s",), None, "has no 'l40s'"),
        ("1xmi300x", ("software=vllm,trtllm",), None, "TensorRT-LLM does not run on mi300x"),
        ("1xmi300x", (), "trtllm", "TensorRT-LLM does not run on mi300x"),
        ("4xtpu-v5e", (), "vllm", "no target starts engines on tpu-v5e"),
        (TWO_MAKES, (), "lws", "lws starts one image, and mi300x needs another"),
    ],
)
def test_what_cannot_be_deployed_is_refused(
    cluster: str, pin: tuple[str, ...], target: str | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        oa.plan_serving(
            oa.load_model("llama-3.1-8b"), oa.load_cluster(cluster), ASKED, pin=pin, target=target
        )


@pytest.mark.parametrize(
    ("cluster", "forbid", "target"),
    [
        (TWO_MAKES, ("device=mi300x",), "lws"),
        (TWO_MAKES, (), "vllm"),
        ("1xmi300x", (), "dynamo"),
        ("4xtpu-v5e", (), None),
    ],
)
def test_the_rest_is_planned(cluster: str, forbid: tuple[str, ...], target: str | None) -> None:
    """One make is left, each engine has scripts of its own, or nothing is deployed."""
    result = oa.plan_serving(
        oa.load_model("llama-3.1-8b"), oa.load_cluster(cluster), ASKED, forbid=forbid, target=target
    )
    assert result.plan.workers
