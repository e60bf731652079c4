"""sweep_serving: the best serving plan for every cell of a grid of devices, lengths and loads."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from optalloc.cluster.load import is_file_name, load_cluster
from optalloc.errors import OptallocError
from optalloc.model.spec import ModelSpec
from optalloc.plan.sweep import sized
from optalloc.serving.configuration.solve import plan_serving
from optalloc.stop import StopRule
from optalloc.workload import Serving


class ServingRow(msgspec.Struct, frozen=True, kw_only=True):
    """One cell and its best plan; what is not known is None.

    ``front``: no other row is as good in tokens/s for a user and a device, and better in one.
    """

    device: str
    devices: int
    input_len: int
    output_len: int
    rate_per_s: float | None
    concurrency: int | None
    objective: str
    status: str
    reason: str = ""
    value: float | None = None
    mode: str | None = None
    num_devices: int | None = None
    engines: str = ""
    ttft_s: float | None = None
    tpot_s: float | None = None
    output_tokens_per_s: float | None = None
    tokens_per_s_per_user: float | None = None
    tokens_per_s_per_device: float | None = None
    usd_per_mtoken: float | None = None
    front: bool = False
    cpu_s: float = 0.0


def sweep_serving(
    model: ModelSpec,
    clusters: Sequence[str],
    workload: Serving,
    *,
    devices: Sequence[int] = (),
    input_lens: Sequence[int] = (),
    output_lens: Sequence[int] = (),
    rates: Sequence[float] = (),
    concurrencies: Sequence[int] = (),
    objective: str = "throughput",
    pin: Iterable[str] = (),
    forbid: Iterable[str] = (),
    headroom: float = 0.1,
    stop: StopRule | None = None,
    on_row: Callable[[ServingRow], None] | None = None,
) -> tuple[ServingRow, ...]:
    """The best plan of every cell, in the order of the parameters; what goes wrong is in its row.

    Parameters
    ----------
    clusters : sequence of str
        Device names with ``devices``; without, shorthands or cluster files.
    workload : Serving
        What the cells share; an axis that is empty keeps what it says.

    Complexity: one search a cell.
    """
    rows = []
    loads: list[dict[str, float | int | None]] = [
        {"rate_per_s": r, "concurrency": None} for r in rates
    ]
    loads += [{"rate_per_s": None, "concurrency": q} for q in concurrencies]
    pins, forbids = tuple(pin), tuple(forbid)
    for text, count, i, o, load in itertools.product(
        clusters,
        devices or (0,),
        input_lens or (workload.input_len,),
        output_lens or (workload.output_len,),
        loads or [{}],
    ):
        begin = time.process_time()
        row = ServingRow(
            device=text,
            devices=count,
            input_len=i,
            output_len=o,
            rate_per_s=workload.rate_per_s,
            concurrency=workload.concurrency,
            objective=objective,
            status="error",
        )
        row = msgspec.structs.replace(row, **load)
        try:
            work = msgspec.structs.replace(workload, input_len=i, output_len=o, **load)
            cluster = load_cluster(f"{count}x{text}" if count and not is_file_name(text) else text)
            cluster = sized(cluster, count) if count and is_file_name(text) else cluster
            result = plan_serving(
                model,
                cluster,
                work,
                objective=objective,
                pin=pins,
                forbid=forbids,
                headroom=headroom,
                stop=stop,
            )
            row = msgspec.structs.replace(
                row,
                device="+".join(cluster.device_names),
                devices=cluster.num_devices,
                status=result.termination.value,
                reason="; ".join(result.conflict),
            )
            if result.best is not None:
                plan = result.best
                said = plan.predicted
                row = msgspec.structs.replace(
                    row,
                    value=result.bounds.primal,
                    mode=plan.mode,
                    num_devices=plan.num_devices,
                    engines=" + ".join(
                        f"{w.count} x tp{w.engine.tp}"
                        + (f" pp{w.engine.pp}" if w.engine.pp > 1 else "")
                        + (f" dp{w.engine.attention_dp}" if w.engine.attention_dp > 1 else "")
                        for w in plan.workers
                    ),
                    ttft_s=said.ttft_s,
                    tpot_s=said.tpot_s,
                    output_tokens_per_s=said.output_tokens_per_s,
                    tokens_per_s_per_user=said.tokens_per_s_per_user,
                    tokens_per_s_per_device=said.tokens_per_s_per_device,
                    usd_per_mtoken=said.usd_per_mtoken,
                )
        except OptallocError as error:
            row = msgspec.structs.replace(row, reason=str(error))
        row = msgspec.structs.replace(row, cpu_s=round(time.process_time() - begin, 3))
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return _marked(rows)


def _marked(rows: list[ServingRow]) -> tuple[ServingRow, ...]:
    """The rows with those on the front marked."""
    points = [(r.tokens_per_s_per_user or 0.0, r.tokens_per_s_per_device or 0.0) for r in rows]

    def beaten(a: tuple[float, float]) -> bool:
        return any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in points)

    return tuple(
        msgspec.structs.replace(row, front=row.value is not None and not beaten(point))
        for row, point in zip(rows, points, strict=True)
    )
