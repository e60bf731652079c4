"""Published serving measurements as problems: a setup, a load on it, and what was measured.

Two forms of tables are read, told apart by their header: times to first and further tokens at a
given concurrency (``ttft_ms``, ``tpot_ms``), and rates of offline, static and single runs
(``scenario``, ``metric``, ``value``). ``docs/reference/serving-rows.md`` lists the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from optalloc.cluster.device import DeviceSpec
from optalloc.cost.engine.cells import MOST_REQUESTS, Cells, Row
from optalloc.cost.engine.names import dtype_of, model_of, software_of
from optalloc.cost.engine.setup import Engine, Software
from optalloc.cost.measured.devices import device_of
from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.records import read_records

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
    ``measured_tpot_s`` are seconds, ``measured_rate`` output tokens per second. ``remarks`` say
    what of the line was taken for something else.
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
    remarks: tuple[str, ...] = ()

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
    """The lines of a table of serving measurements; names of columns in any case.

    A line without a name is named by its place.

    Raises
    ------
    InputError
        If the file cannot be read, has no lines or is of neither form.
    """
    head, records = read_records(path)
    if not {name.strip().lower() for name in head} & {*_RATE_COLUMNS, *_TIME_COLUMNS}:
        raise InputError(
            "the table is of neither form of serving measurements",
            path=path,
            fix="give the columns of docs/reference/serving-rows.md",
        )
    rows = [{name.strip().lower(): cell.strip() for name, cell in r.items()} for r in records]
    rows = [row for row in rows if any(row.values())]
    if not rows:
        raise InputError("the table has no rows", path=path, fix="write one measurement a line")
    return [row | {"id": row.get("id") or str(k)} for k, row in enumerate(rows, start=1)]


_RATE_COLUMNS = ("scenario", "metric", "value", "gpu")
_TIME_COLUMNS = ("mode", "system", "ttft_ms", "tpot_ms")


def is_latency_form(rows: Sequence[Row]) -> bool:
    """True for a table of times at a given concurrency, False for one of rates."""
    return not any(name in rows[0] for name in _RATE_COLUMNS)


def serving_problem(row: Row) -> ServingProblem:
    """The problem of one line of either form.

    Raises
    ------
    InputError
        If nothing is known of the model.
    """
    cells = Cells(row)
    return _latency_problem(cells) if is_latency_form([row]) else _rate_problem(cells)


# -- times at a given concurrency ------------------------------------------------------------------


def _latency_problem(cells: Cells) -> ServingProblem:
    model = model_of(cells)
    prefixes = ("prefill_", "decode_") if cells.text("mode").lower().startswith("dis") else ("",)
    workers = _pooled(cells, model) or tuple(_worker(cells, model, p) for p in prefixes)
    if concurrency := cells.number("concurrency", 0.0, most=MOST_REQUESTS):
        if _leaves_out_ranks(cells):
            concurrency *= workers[0].engine.attention_dp
    else:  # not published: what the decoding engines hold
        last = workers[-1]
        batch = cells.number(f"{prefixes[-1]}batch_size", 1.0, most=MOST_REQUESTS)
        concurrency = batch * last.count * last.engine.attention_dp
    ttft_ms, tpot_ms = cells.measured("ttft_ms"), cells.measured("tpot_ms")
    return ServingProblem(
        row_id=cells.text("id"),
        scenario="disaggregated" if len(workers) > 1 else "closed",
        model=model,
        device=_device(cells, "system"),
        workers=workers,
        input_len=cells.length("isl"),
        output_len=cells.length("osl"),
        concurrency=concurrency,
        setup="|".join(cells.text(name) for name in _SETUP_COLUMNS),
        campaign="public" if cells.text("measured") else "in-house",
        release=_release(cells),
        measured_ttft_s=ttft_ms / 1000.0 if ttft_ms else None,
        measured_tpot_s=tpot_ms / 1000.0 if tpot_ms else None,
        remarks=tuple(dict.fromkeys(cells.remarks)),
    )


_WIDTHS = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
_SETUP_COLUMNS = (
    *("engine", "model", "system", "precision", "mode"),
    *(f"{prefix}{width}" for prefix in ("", "prefill_", "decode_") for width in _WIDTHS),
)


def _worker(cells: Cells, model: ModelSpec, prefix: str) -> Worker:
    tp, pp, dp, moe_tp, moe_ep = (cells.width(prefix + name) for name in _WIDTHS)
    tp, dp, moe_ep = _plain_widths(tp, dp, moe_tp, moe_ep)
    return Worker(
        engine=_engine(cells, model, tp=tp, pp=pp, attention_dp=dp, moe_ep=moe_ep),
        count=cells.width(f"{prefix}num_workers") if prefix else 1,
    )


def _leaves_out_ranks(cells: Cells) -> bool:
    """True for a line of one rank of data-parallel attention, whose experts lie on more devices."""
    attention, experts = (
        cells.width(first) * cells.width(second)
        for first, second in (("tp_size", "attention_dp_size"), ("moe_tp_size", "moe_ep_size"))
    )
    return attention == 1 < experts


def _pooled(cells: Cells, model: ModelSpec) -> tuple[Worker, ...]:
    """Workers of a line that counts the devices of prefill and decode workers as one width.

    Such a width is no power of two. Its largest one decodes: by data-parallel attention, or, where
    that would leave few requests to a device, in groups of eight; groups of four of the rest read
    prompts.
    """
    tp = cells.width("tp_size")
    decode = 1 << (tp.bit_length() - 1)
    if tp <= 8 or tp == decode or (tp - decode) % 4:
        return ()
    prompts = Worker(
        engine=_engine(cells, model, attention_dp=4, moe_ep=4), count=(tp - decode) // 4
    )
    if cells.number("concurrency", 0.0, most=MOST_REQUESTS) <= 8.0 * decode:
        engine, count = _engine(cells, model, tp=8, moe_ep=8), decode // 8
    else:
        engine, count = _engine(cells, model, attention_dp=decode, moe_ep=decode), 1
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


def _engine(cells: Cells, model: ModelSpec, **widths: int) -> Engine:
    name = cells.text("model").lower()
    weight = dtype_of(cells, "gemm_quant", "precision")
    expert = dtype_of(cells, "moe_quant", "gemm_quant", "precision")
    if "gpt-oss" in name:
        weight, expert = "bf16", "mxfp4"
    elif "nvfp4" in (weight, expert) and any(part in name for part in _PLAIN_ATTENTION):
        weight, expert = "bf16", "nvfp4"
    if (stages := widths.get("pp", 1)) > (layers := sum(run.count for run in model.layers)):
        cells.remarks.append(f"{stages} stages of {layers} layers taken as {layers}")
        widths["pp"] = layers
    software = software_of(cells)
    return Engine(
        software=software,
        release=_release(cells),
        weight_dtype=weight,
        expert_dtype=expert,
        kv_dtype="bf16" if weight == expert == "bf16" else "fp8",
        # TensorRT-LLM's share is of what the weights leave free, so of the whole it is nearly all.
        memory_fraction=0.99 if software == "trtllm" else 0.95,
        **widths,
    )


def _release(cells: Cells) -> str:
    return cells.text("engine_version") or cells.text("measured")[:7]


def _device(cells: Cells, column: str) -> DeviceSpec:
    return device_of(cells.text(column), 0.0, cells.remarks)


# Their 4-bit checkpoints leave the projections of attention in 16 bits.
_PLAIN_ATTENTION = ("deepseek", "kimi")


# -- rates -----------------------------------------------------------------------------------------


def _rate_problem(cells: Cells) -> ServingProblem:
    model = model_of(cells)
    is_ttft = cells.text("metric").lower() == "ttft_ms"
    scenario = _scenario(cells, is_ttft=is_ttft)
    tp = cells.width("tp")
    experts = any(
        layer.feed_forward.__struct_config__.tag == "experts" for layer in model.layer_types
    )
    # Release 1.x served experts by attention dp.
    spread = experts and cells.text("engine_version").startswith("1.")
    widths = {"tp": 1, "attention_dp": tp, "moe_ep": tp} if spread else {"tp": tp}
    engine = _engine(cells, model, pp=cells.width("pp"), **widths)
    lengths = (int(cells.length("isl")), int(cells.length("osl")))
    batch = cells.number("batch", 1.0, most=MOST_REQUESTS)
    value = cells.measured("value")
    return ServingProblem(
        row_id=cells.text("id"),
        scenario=scenario,
        model=model,
        device=_device(cells, "gpu"),
        # Those runs hold large batches.
        workers=(Worker(engine=msgspec.structs.replace(engine, max_batch=4096)),),
        input_len=float(lengths[0]),
        output_len=float(lengths[1]),
        concurrency={"offline": _REQUESTS.get(lengths, 1500.0), "single": 1.0}.get(scenario, batch),
        setup="|".join(cells.text(n) for n in ("model", "gpu", "tp", "pp", "precision")),
        campaign=f"table {cells.text('engine_version')}",
        release=cells.text("engine_version"),
        measured_ttft_s=value / 1000.0 if value and is_ttft else None,
        measured_rate=None if is_ttft else value,
        remarks=tuple(dict.fromkeys(cells.remarks)),
    )


def _scenario(cells: Cells, *, is_ttft: bool) -> Scenario:
    """What a line names, or what its metric and its batch imply."""
    text = cells.text("scenario")
    if (named := _SCENARIOS.get(text.lower())) is not None:
        return named
    implied: Scenario = "single" if is_ttft else "static" if cells.text("batch") else "offline"
    cells.remarks.append(f"scenario {text[:40] or '(none)'!r} taken as {implied}")
    return implied


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
