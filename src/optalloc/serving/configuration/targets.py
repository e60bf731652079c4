"""Targets: what each way to deploy a serving plan can express, beside what its software runs.

vLLM
    A rank of data-parallel attention, tp * pp devices, lies on one node: each node then starts the
    ranks that it holds (``--data-parallel-size-local``, ``--data-parallel-start-rank``). Experts
    are in one part or in as many as devices.
TensorRT-LLM
    Attention is tensor- or data-parallel, never both; without Dynamo an engine lies on one node.
llm-d
    vLLM without pipelines, tp within a node, one kind of engine a role.
Dynamo, llm-d and LeaderWorkerSets
    All engines run one image, so that the GPUs are of one make.
"""

from __future__ import annotations

import msgspec

from optalloc.errors import InputError, known_fix
from optalloc.serving.configuration.limits import SOFTWARE, Limits


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One way to deploy: the software it starts, and what it leaves out of a plan."""

    software: tuple[str, ...]
    one_node: bool = False
    pipelines: bool = True
    wide_tp: bool = True
    several_kinds: bool = True
    one_image: bool = False

    def expresses(self, *, tp: int, pp: int, devices: int, node: int) -> bool:
        """True if an engine of these widths on nodes of so many devices can be written."""
        return (
            (self.pipelines or pp == 1)
            and (self.wide_tp or tp <= node)
            and (not self.one_node or devices <= node)
        )


TARGETS = {
    "dynamo": Target(software=SOFTWARE, one_image=True),
    "llm-d": Target(
        software=("vllm",), pipelines=False, wide_tp=False, several_kinds=False, one_image=True
    ),
    "lws": Target(software=("vllm", "sglang"), one_image=True),
    "sglang": Target(software=("sglang",)),
    "trtllm": Target(software=("trtllm",), one_node=True),
    "vllm": Target(software=("vllm",)),
}

#: What is left of a plan where no target is named: everything.
ANY = Target(software=SOFTWARE)


def target_of(limits: Limits) -> Target:
    """The target that the limits name."""
    return TARGETS.get(limits.target, ANY)


def for_target(limits: Limits, target: str) -> Limits:
    """These limits with the space of a target: its software is pinned where none is.

    Raises
    ------
    InputError
        If no target has that name, or it does not start the software that is pinned.
    """
    if target not in TARGETS:
        raise InputError(
            f"{target!r} is no target of serving plans",
            path="--for",
            fix=known_fix(target, TARGETS),
        )
    known = TARGETS[target].software
    pins = {key: value for key, value in limits.pin.items() if key.endswith("software")}
    pins = pins or {"software": known[:1]}
    kept = {key: tuple(v for v in value if v in known) for key, value in pins.items()}
    for key, value in kept.items():
        if not value:
            raise InputError(
                f"{target} does not start {' or '.join(limits.pin[key])}",
                path="--for",
                fix=f"use --software {','.join(known)}, or another target",
            )
    return msgspec.structs.replace(limits, pin=limits.pin | kept, target=target)


def software_runs(
    software: str, *, tp: int, pp: int, attention_dp: int, devices: int, node: int
) -> bool:
    """True if the software runs attention of these widths on nodes of so many devices."""
    if software == "trtllm":
        return tp == 1 or attention_dp == 1
    if software == "vllm" and attention_dp > 1 and devices > node:
        return node % (tp * pp) == 0
    return True
