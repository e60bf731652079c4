"""What is to be computed: one tagged value a kind of work, read from ``workload.toml``."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from optalloc import files
from optalloc.errors import InputError

Dtype = Literal["fp32", "bf16", "fp16", "fp8", "fp4"]
Optimizer = Literal["adamw", "lion", "sgd"]

FRAMEWORKS = (
    "megatron",
    "megatron-lm",
    "megatron-deepspeed",
    "deepspeed",
    "fsdp",
    "fsdp2",
    "fsdp2-compiled",
)
"""Megatron-Core and what is built on it; Megatron-LM before its core library; ZeRO-3 of DeepSpeed;
PyTorch's first and second FSDP, the latter eager or with torch.compile."""

# Beyond any deployment: tokens of a request, and requests in flight.
_MOST_SERVED = {"input_len": 10**9, "output_len": 10**9, "concurrency": 10**6}
# Beyond any step: sequences, and tokens of one of them.
_MOST = {"global_batch": 10**7, "sequence_length": 10**9, "decoder_sequence_length": 10**9}


class Training(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="training",
):
    """One optimizer step of training.

    Parameters
    ----------
    global_batch : int
        Sequences in one optimizer step, over all devices.
    sequence_length : int
        Tokens of one sequence (of the encoder, in an encoder-decoder model).
    decoder_sequence_length : int, optional
        Target tokens of one sequence in an encoder-decoder model; default: as ``sequence_length``.
    dtype : {"bf16", "fp16", "fp8", "fp4", "fp32"}
        Type of the matrix multiplications and of the stored activations (fp8 and fp4 store 16-bit
        ones).
    optimizer : {"adamw", "lion", "sgd"}
        AdamW keeps a master copy and two moments; Lion and SGD a master copy and a momentum.
    moment_dtype : {"fp32", "bf16"}
        Type of the optimizer's moments; the master copy is fp32.
    gradient_dtype : {"fp32", "bf16"}
        Type in which gradients are accumulated and reduced.
    attention_kernel : {"fused", "unfused"}
        A fused (flash) kernel keeps one number a head and token; an unfused one the whole softmax.
    activation_kernel : {"fused", "unfused"}
        A fused kernel keeps the input of the MLP's activation; an unfused one every step between.
    dropout : bool
        Whether the model trains with dropout, whose masks are stored.
    framework : str
        The family of software that runs the step (:data:`FRAMEWORKS`); the cost model knows some by
        their own constants and takes the common ones for any other name. It decides the layout of
        states and what selective recomputation repeats.
    release : str
        Its release as year and month, "25.11"; empty: the newest that the cost model knows.
    lora_rank : int
        Rank of low-rank adapters on frozen weights; 0: every parameter is trained.
    lora_modules : {"all", "qkv"}
        The matrices that have adapters: all of the layers, or the projections of queries, keys and
        values.
    """

    format: Literal["optalloc.workload/1"] = "optalloc.workload/1"
    global_batch: int
    sequence_length: int
    decoder_sequence_length: int | None = None
    dtype: Dtype = "bf16"
    optimizer: Optimizer = "adamw"
    gradient_dtype: Literal["fp32", "bf16"] = "fp32"
    attention_kernel: Literal["fused", "unfused"] = "fused"
    moment_dtype: Literal["fp32", "bf16"] = "fp32"
    activation_kernel: Literal["fused", "unfused"] = "fused"
    dropout: bool = False
    framework: str = "megatron"
    release: str = ""
    lora_rank: int = 0
    lora_modules: Literal["all", "qkv"] = "all"

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise InputError(
                    f"{name} is {value:,}",
                    pointer=f"$.{name}",
                    fix=f"give a whole number from 1 to {most:,}",
                )
        if self.lora_rank < 0:
            raise InputError(
                f"lora_rank is {self.lora_rank}",
                pointer="$.lora_rank",
                fix="give a whole number; 0 trains every parameter",
            )

    @property
    def sharded_parameters(self) -> bool:
        """True for FSDP: weights live as fp32 shards and are gathered in 16 bits."""
        return self.framework.startswith("fsdp")


class Serving(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="serving",
):
    """Requests to a language model, and how soon their tokens are wanted.

    Parameters
    ----------
    input_len : int
        Tokens of a prompt, in the mean.
    output_len : int
        Tokens of an answer, in the mean.
    rate_per_s : float, optional
        Requests that arrive each second (an open loop); exclusive with ``concurrency``.
    concurrency : int, optional
        Requests in flight: each answered one is followed at once by the next (a closed loop).
        Neither of the two: every request is queued at once.
    ttft_s : float, optional
        Target of the time to the first token, seconds.
    tpot_s : float, optional
        Target of the time of each further token, seconds.
    percentile : float, optional
        The share of requests, in percent, that meets the targets; None: the targets bind the mean.
    prefix_len : int
        Tokens at the start of a prompt that all requests share and the engine has cached.
    """

    format: Literal["optalloc.workload/1"] = "optalloc.workload/1"
    input_len: int
    output_len: int
    rate_per_s: float | None = None
    concurrency: int | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    percentile: float | None = None
    prefix_len: int = 0

    def __post_init__(self) -> None:
        for name, most in _MOST_SERVED.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise InputError(
                    f"{name} is {value:,}",
                    pointer=f"$.{name}",
                    fix=f"give a whole number from 1 to {most:,}",
                )
        for name in ("rate_per_s", "ttft_s", "tpot_s"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise InputError(
                    f"{name} is {value:g}", pointer=f"$.{name}", fix="give a number above 0"
                )
        if self.rate_per_s is not None and self.concurrency is not None:
            raise InputError(
                "both rate_per_s and concurrency are given",
                pointer="$.rate_per_s",
                fix="give the rate of arrivals, or the number of requests in flight",
            )
        if self.percentile is not None and not 1.0 <= self.percentile < 100.0:
            share = 100.0 * self.percentile if 0.0 < self.percentile < 1.0 else 90.0
            raise InputError(
                f"percentile is {self.percentile:g}",
                pointer="$.percentile",
                fix=f"give a number from 1 to below 100, such as {share:g}",
            )
        if not 0 <= self.prefix_len < self.input_len:
            raise InputError(
                f"prefix_len is {self.prefix_len} of {self.input_len} tokens of a prompt",
                pointer="$.prefix_len",
                fix="give a whole number from 0 to input_len - 1",
            )


Workload = Training | Serving


def load_workload(path: str | os.PathLike[str]) -> Workload:
    """The workload of a ``workload.toml``; without ``kind`` its keys tell which one it is.

    Raises
    ------
    InputError
        If the file cannot be read, has unknown keys, or a value makes no sense.
    """
    table = files.read_table(path)
    kind = table.get("kind", "serving" if "input_len" in table else "training")
    if kind == "serving":
        return files.typed(table, Serving, path=str(path))
    return files.typed(table, Training, path=str(path))
