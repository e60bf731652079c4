"""Which engines the software of a plan does not run, and its target cannot express.

For the checks: no code is shared with the search (:mod:`targets`).
"""

from __future__ import annotations

from optalloc.cost.engine.setup import Engine

_ONLY = {"llm-d": ("vllm",), "lws": ("vllm", "sglang")}
_EACH = ("sglang", "trtllm", "vllm")


def refusal(target: str, engine: Engine, node: int) -> str:
    """Why an engine on nodes of so many devices is left out; empty if it is not."""
    e = engine
    only = _ONLY.get(target, (target,) if target in _EACH else _EACH)
    if e.software not in only:
        return f"{target} starts no {e.software}"
    if e.software == "trtllm" and e.tp > 1 and e.attention_dp > 1:
        return "trtllm has attention either in tp or in dp"
    spread = e.num_devices > node
    if e.software == "vllm" and e.attention_dp > 1 and spread and node % (e.tp * e.pp):
        return "a rank of vllm's data-parallel attention is over several nodes"
    if target == "trtllm" and spread:
        return "an engine is over several nodes"
    if target == "llm-d" and (e.pp > 1 or e.tp > node):
        return "llm-d has neither pipelines nor tp over nodes"
    return ""
