"""Engine: the software that serves a model and how it spreads it over devices."""

from __future__ import annotations

from typing import Literal

import msgspec

from optalloc.errors import InputError

Software = Literal["vllm", "sglang", "trtllm"]
WeightDtype = Literal["bf16", "fp8", "fp8-block", "nvfp4", "mxfp4", "int4"]
KvDtype = Literal["bf16", "fp8"]

#: Bytes of one weight with the scales of its group (fp8-block: 4 bytes a 128 x 128 block; nvfp4: 1
#: byte a 16 values; mxfp4: 1 byte a 32; int4: 2 bytes a 128).
WEIGHT_BYTES = {
    "bf16": 2.0,
    "fp8": 1.0,
    "fp8-block": 1.0 + 4.0 / 128**2,
    "nvfp4": 0.5 + 1.0 / 16,
    "mxfp4": 0.5 + 1.0 / 32,
    "int4": 0.5 + 2.0 / 128,
}
KV_BYTES = {"bf16": 2.0, "fp8": 1.0}


class Engine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine: a copy of the model on ``num_devices`` devices.

    Every pipeline stage has ``tp * attention_dp`` devices. Attention is cut over the heads in
    groups of ``tp``; ``attention_dp`` such groups serve different requests. The experts are spread
    over all devices of a stage: ``moe_ep`` parts of the experts, each cut ``moe_tp`` ways.

    Parameters
    ----------
    software : {"vllm", "sglang", "trtllm"}
        Whose constants and scheduling apply.
    release : str
        Its release, where constants of that release are wanted; empty: those of any.
    tp, pp, attention_dp : int
        Widths of tensor parallelism, of the pipeline and of data-parallel attention.
    moe_tp, moe_ep : int, optional
        Widths over which experts are cut and spread; default: cut over all devices of the stage.
    weight_dtype : str
        Type of the weights of matrices.
    expert_dtype : str, optional
        Type of the weights of routed experts; default: as ``weight_dtype``.
    kv_dtype : {"bf16", "fp8"}
        Type of the cached keys and values.
    chunk_tokens : int
        Tokens of one iteration of a rank at most, decoding ones included.
    max_batch : int
        Decoding sequences that a data-parallel rank holds at most.
    memory_fraction : float
        Share of device memory that weights, cache and workspace may take.
    draft_tokens : int
        Tokens drafted for each sequence in an iteration (speculative decoding); 0: none.
    acceptance : float
        Share of the drafted tokens that is accepted, in the mean.
    """

    software: Software = "vllm"
    release: str = ""
    tp: int = 1
    pp: int = 1
    attention_dp: int = 1
    moe_tp: int = 0
    moe_ep: int = 1
    weight_dtype: WeightDtype = "bf16"
    expert_dtype: WeightDtype | None = None
    kv_dtype: KvDtype = "bf16"
    chunk_tokens: int = 8192
    max_batch: int = 1024
    memory_fraction: float = 0.9
    draft_tokens: int = 0
    acceptance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "attention_dp", "moe_ep", "chunk_tokens", "max_batch"):
            if getattr(self, name) < 1:
                raise _refused(name, getattr(self, name), "give a whole number of at least 1")
        for name in ("moe_tp", "draft_tokens"):
            if getattr(self, name) < 0:
                raise _refused(name, getattr(self, name), "give a whole number of at least 0")
        if not 0.0 < self.memory_fraction <= 1.0:
            raise _refused("memory_fraction", self.memory_fraction, "give a share up to 1")
        if not 0.0 <= self.acceptance <= 1.0:
            raise _refused("acceptance", self.acceptance, "give a share from 0 to 1")
        wide = self.tp * self.attention_dp
        if wide % self.moe_ep or (self.moe_tp and self.moe_tp * self.moe_ep != wide):
            raise InputError(
                f"moe_tp {self.moe_tp or '(left out)'} and moe_ep {self.moe_ep} do not cover the "
                f"{wide} devices of a stage",
                pointer="engine.moe_ep",
                fix=f"choose moe_tp * moe_ep = tp * attention_dp = {wide}, or moe_tp 0, which "
                "follows from the others",
            )

    @property
    def num_devices(self) -> int:
        """Devices of the engine."""
        return self.tp * self.pp * self.attention_dp

    @property
    def expert_tp(self) -> int:
        """Ways that one expert is cut."""
        return self.moe_tp or self.tp * self.attention_dp // self.moe_ep

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a sequence gains in one decoding iteration, in the mean."""
        return 1.0 + self.draft_tokens * self.acceptance


def _refused(name: str, value: float, fix: str) -> InputError:
    return InputError(f"{name} is {value}", pointer=f"engine.{name}", fix=fix)
