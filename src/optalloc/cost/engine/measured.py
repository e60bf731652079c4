"""Published serving measurements as problems: a setup, a load on it, and what was measured.

Two forms of tables are read, told apart by their header: times to first and further tokens at a
given concurrency (``ttft_ms``, ``tpot_ms``), and rates of offline, static and single runs
(``scenario``, ``metric``, ``value``). ``docs/reference/serving-rows.md`` lists the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from optalloc.cluster import catalog
from optalloc.cluster.device import DeviceSpec
from optalloc.cost.engine.setup import Engine, Software, WeightDtype
from optalloc.errors import InputError
from optalloc.model.load import load_model
from optalloc.model.spec import ModelSpec
from optalloc.records import read_records

Row = dict[str, str]
Scenario = Literal["closed", "disaggregated", "offline", "static", "single"]


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` equal engines."""

    engine: Engine
    count: int = 1


class ServingProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: the setup, the load, and the figures where the table gives them.

    ``workers`` are one group of engines, or those for prompts and those that decode. ``setup``
    names what must stay together in a cross-validation. ``campaign`` tells series that were
    measured alike: their clients start and draw lengths in the same way. ``measured_ttft_s`` and
    ``measured_tpot_s`` are seconds, ``measured_rate`` output tokens per second.
    """

    row_id: str
    scenario: Scenario
    model: ModelSpec
    device: DeviceSpec
    workers: tuple[Worker, ...]
    input_len: float
    output_len: float
    concurrency: float
    setup: str
    campaign: str
    release: str = ""
    measured_ttft_s: float | None = None
    measured_tpot_s: float | None = None
    measured_rate: float | None = None

    @property
    def software(self) -> Software:
        """The software that served."""
        return self.workers[0].engine.software

    @property
    def reserved(self) -> float:
        """Share of an answer for which a request needs room before its prompt is read.

        TensorRT-LLM admits what it never evicts; the others admit while there is room.
        """
        return 1.0 if self.software == "trtllm" else 0.5


def read_serving_rows(path: str) -> list[Row]:
    """The lines of a table of serving measurements.

    Raises
    ------
    InputError
        If the file cannot be read or is of neither form.
    """
    _, rows = read_records(path)
    if not rows or not ("scenario" in rows[0] or "mode" in rows[0]):
        raise InputError(
            "the table is of neither form of serving measurements",
            path=path,
            fix="give the columns of docs/reference/serving-rows.md",
        )
    return rows


def is_latency_form(rows: Sequence[Row]) -> bool:
    """True for a table of times at a given concurrency, False for one of rates."""
    return "scenario" not in rows[0]


def serving_problem(row: Row) -> ServingProblem:
    """The problem of one line of either form.

    Raises
    ------
    InputError
        If a model or a device is unknown, or a number is missing or makes no sense.
    """
    return _rate_problem(row) if "scenario" in row else _latency_problem(row)


# -- times at a given concurrency ------------------------------------------------------------------


def _latency_problem(row: Row) -> ServingProblem:
    disaggregated = row.get("mode") == "disagg"
    prefixes = ("prefill_", "decode_") if disaggregated else ("",)
    public = bool(row.get("measured"))
    workers = _pooled(row) or tuple(_worker(row, prefix) for prefix in prefixes)
    disaggregated = len(workers) > 1
    concurrency = _number(row, "concurrency", 0.0)
    if concurrency < 1.0:  # not published: what the decoding engines hold
        last = workers[-1]
        batch = _number(row, f"{prefixes[-1]}batch_size", 1.0)
        concurrency = batch * last.count * last.engine.attention_dp
    elif _leaves_out_ranks(row):
        concurrency *= workers[0].engine.attention_dp
    campaign = "public" if public else "in-house"
    return ServingProblem(
        row_id=row.get("id", ""),
        scenario="disaggregated" if disaggregated else "closed",
        model=load_model(row["model"]),
        device=catalog.device(row["system"]),
        workers=workers,
        input_len=_number(row, "isl"),
        output_len=_number(row, "osl"),
        concurrency=concurrency,
        setup="|".join(row.get(name, "") for name in _SETUP_COLUMNS),
        campaign=campaign,
        release=row.get("engine_version") or row.get("measured", "")[:7],
        measured_ttft_s=_seconds(row, "ttft_ms"),
        measured_tpot_s=_seconds(row, "tpot_ms"),
    )


_WIDTHS = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
_SETUP_COLUMNS = (
    *("engine", "model", "system", "precision", "mode"),
    *(f"{prefix}{width}" for prefix in ("", "prefill_", "decode_") for width in _WIDTHS),
)


def _worker(row: Row, prefix: str) -> Worker:
    tp, pp, dp, moe_tp, moe_ep = (max(1, int(_number(row, prefix + name, 1.0))) for name in _WIDTHS)
    tp, dp, moe_ep = _plain_widths(tp, dp, moe_tp, moe_ep)
    return Worker(
        engine=_engine(row, tp=tp, pp=pp, attention_dp=dp, moe_ep=moe_ep),
        count=int(_number(row, f"{prefix}num_workers", 1.0)) if prefix else 1,
    )


def _leaves_out_ranks(row: Row) -> bool:
    """True for a line of one rank of data-parallel attention, whose experts lie on more devices."""
    attention, experts = (
        _number(row, first, 1.0) * _number(row, second, 1.0)
        for first, second in (("tp_size", "attention_dp_size"), ("moe_tp_size", "moe_ep_size"))
    )
    return attention == 1.0 < experts


def _pooled(row: Row) -> tuple[Worker, ...]:
    """Workers of a line that counts the devices of prefill and decode workers as one width.

    Such a width is no power of two. Its largest one decodes: by data-parallel attention, or, where
    that would leave few requests to a device, in groups of eight; groups of four of the rest read
    prompts.
    """
    tp = int(_number(row, "tp_size", 1.0))
    decode = 1 << (tp.bit_length() - 1)
    if tp <= 8 or tp == decode or (tp - decode) % 4:
        return ()
    prompts = Worker(engine=_engine(row, attention_dp=4, moe_ep=4), count=(tp - decode) // 4)
    if _number(row, "concurrency", 0.0) <= 8.0 * decode:
        engine, count = _engine(row, tp=8, moe_ep=8), decode // 8
    else:
        engine, count = _engine(row, attention_dp=decode, moe_ep=decode), 1
    return prompts, Worker(engine=engine, count=count)


def _plain_widths(tp: int, dp: int, moe_tp: int, moe_ep: int) -> tuple[int, int, int]:
    """tp, attention dp and moe_ep of a stage, where tables write products in their place.

    Public tables note a width G of tensor parallelism (or data-parallel attention) with experts
    spread over the same G devices as G G of the one and G of each expert width; and one rank of
    data-parallel attention as a single device of it, beside the experts of all ranks. They also
    note some runs of vLLM twice, once as tp with dp = tp and moe_ep = tp tp, which the times of its
    twin tell to be tensor parallelism alone, with experts spread.
    """
    if moe_tp == moe_ep > 1 and tp * dp == moe_tp * moe_ep:
        return (1, moe_ep, moe_ep) if dp > 1 else (moe_ep, 1, moe_ep)
    if tp == dp > 1 and moe_ep == tp * dp:
        return tp, 1, tp
    if tp * dp == 1 and moe_tp * moe_ep > 1:
        dp = moe_tp * moe_ep
    wide = tp * dp
    return tp, dp, moe_ep if wide % moe_ep == 0 else 1


def _engine(row: Row, **widths: int) -> Engine:
    model = row["model"].lower()
    precision = row.get("precision", "")
    gemm, moe = row.get("gemm_quant", ""), row.get("moe_quant", "")
    weight: WeightDtype = _QUANT.get(gemm or precision, "bf16")
    expert: WeightDtype = _QUANT.get(moe or gemm or precision, "bf16")
    if "gpt-oss" in model:
        weight, expert = "bf16", "mxfp4"
    elif "nvfp4" in (weight, expert) and any(name in model for name in _PLAIN_ATTENTION):
        weight, expert = "bf16", "nvfp4"
    return Engine(
        software=_SOFTWARE[row["engine"]],
        release=row.get("engine_version") or row.get("measured", "")[:7],
        weight_dtype=weight,
        expert_dtype=expert,
        kv_dtype="bf16" if weight == expert == "bf16" else "fp8",
        # TensorRT-LLM's share is of what the weights leave free, so of the whole it is nearly all.
        memory_fraction=0.99 if row["engine"] in ("trtllm", "tensorrt_llm") else 0.95,
        **widths,
    )


def _offline_engine(row: Row, **widths: int) -> Engine:
    """Those runs hold large batches."""
    return msgspec.structs.replace(_engine(row, **widths), max_batch=4096)


_SOFTWARE: dict[str, Software] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "trtllm": "trtllm",
    "tensorrt_llm": "trtllm",
}
_QUANT: dict[str, WeightDtype] = {
    "fp8": "fp8",
    "fp8_block": "fp8-block",
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    "int4_wo": "int4",
    "fp16": "bf16",
    "bf16": "bf16",
}
# Their 4-bit checkpoints leave the projections of attention in 16 bits.
_PLAIN_ATTENTION = ("deepseek", "kimi")


# -- rates -----------------------------------------------------------------------------------------


def _rate_problem(row: Row) -> ServingProblem:
    scenario = _SCENARIOS.get(row["scenario"])
    if scenario is None:
        raise InputError(
            f"unknown scenario {row['scenario']!r}",
            path=row.get("id", "a row"),
            fix=f"use one of {', '.join(_SCENARIOS)}",
        )
    model = load_model(row["model"])
    tp, pp = int(_number(row, "tp", 1.0)), int(_number(row, "pp", 1.0))
    release = row.get("engine_version", "")
    experts = any(
        layer.feed_forward.__struct_config__.tag == "experts" for layer in model.layer_types
    )
    spread = experts and release.startswith("1.")  # those runs served experts by attention dp
    widths = {"tp": 1, "attention_dp": tp, "moe_ep": tp} if spread else {"tp": tp}
    lengths = (int(_number(row, "isl")), int(_number(row, "osl")))
    value = _number(row, "value", 0.0) or None
    is_ttft = row.get("metric") == "ttft_ms"
    single = scenario == "single"
    load = 1.0 if single else _number(row, "batch", 1.0)
    return ServingProblem(
        row_id=row.get("id", ""),
        scenario=scenario,
        model=model,
        device=catalog.device(row["gpu"]),
        workers=(Worker(engine=_offline_engine(row, pp=pp, **widths)),),
        input_len=float(lengths[0]),
        output_len=float(lengths[1]),
        concurrency=_REQUESTS.get(lengths, 1500.0) if scenario == "offline" else load,
        setup="|".join(row.get(n, "") for n in ("model", "gpu", "tp", "pp", "precision")),
        campaign=f"table {release}",
        release=release,
        measured_ttft_s=value / 1000.0 if value and is_ttft else None,
        measured_rate=None if is_ttft else value,
    )


_SCENARIOS: dict[str, Scenario] = {
    "offline_max_load": "offline",
    "static_batch": "static",
    "single_request": "single",
}
_REQUESTS = {
    (128, 128): 30000.0,
    (128, 2048): 3000.0,
    (2048, 128): 3000.0,
    (1000, 1000): 3000.0,
    (500, 2000): 3000.0,
    (20000, 2000): 1000.0,
}


# -- numbers ---------------------------------------------------------------------------------------


def _number(row: Row, name: str, default: float | None = None) -> float:
    text = (row.get(name) or "").strip()
    try:
        if text or default is None:
            return float(text)
        return default
    except ValueError:
        raise InputError(
            f"{name} is {text!r}, not a number",
            path=row.get("id", "a row"),
            pointer=name,
            fix="give a number",
        ) from None


def _seconds(row: Row, name: str) -> float | None:
    value = _number(row, name, 0.0)
    return value / 1000.0 if value > 0.0 else None
