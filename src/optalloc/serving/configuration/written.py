"""A deployment as it is written: what engines that somebody chose do, without a search.

The decisions of a plan are its workers, each with group, engine and count, its mode, and with
requests in flight the share of them that each carries. All else follows from these and is computed
as the search computes it. Targets may be missed, and a rate be out of reach: that is for the reader
to see.
"""

from __future__ import annotations

import msgspec
import numpy as np

from optalloc.cost.engine.load import closed_loop
from optalloc.errors import CertificateError, InputError
from optalloc.serving.configuration.build import plan_of, step_of
from optalloc.serving.configuration.certify import (
    INVALID,
    check_deployment,
    check_serving_plan,
)
from optalloc.serving.configuration.limits import Limits
from optalloc.serving.configuration.operating import Operating
from optalloc.serving.configuration.plan import ServingPlan, Worker
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.search import Choice, Pick
from optalloc.serving.configuration.table import EngineTable, table_of
from optalloc.serving.configuration.workers import (
    decode_workers,
    link_bytes_per_s,
    prefill_workers,
)

_TIE = 1e-6


def serving_as_written(plan: ServingPlan) -> tuple[ServingPlan, str]:
    """The plan with true figures, and what it says that is not true (empty: all of it is).

    An edited plan keeps its decisions; its figures are predicted anew and it has no certificate.

    Raises
    ------
    InputError
        If its engines break a rule of the space, have no place on the nodes, or do not hold the
        sequences that they are to hold.

    Complexity: O(engines).
    """
    try:
        check_serving_plan(plan)
    except CertificateError as error:
        return _anew(plan), str(error).removeprefix(INVALID)
    return plan, ""


def placed(plan: ServingPlan) -> ServingPlan:
    """The plan with true devices and their numbers; its other figures are left.

    Raises
    ------
    InputError
        If its engines break a rule of the space or have no place on the nodes.
    """
    nodes = plan.cluster.nodes
    used = sum(worker.num_devices for worker in plan.workers)
    workers = tuple(
        msgspec.structs.replace(w, device=nodes[w.group].device.name)
        if 0 <= w.group < len(nodes)
        else w
        for w in plan.workers
    )
    plan = msgspec.structs.replace(
        plan, workers=workers, num_devices=used, idle_devices=plan.cluster.num_devices - used
    )
    try:
        check_deployment(plan)
    except CertificateError as error:
        raise InputError(
            str(error).rstrip("."),
            pointer="$.workers",
            fix="change counts, widths or groups until the engines fit, or make the plan again",
        ) from None
    return plan


def _anew(plan: ServingPlan) -> ServingPlan:
    plan = placed(plan)
    for number, worker in enumerate(plan.workers):
        _check_room(plan, worker, f"$.workers[{number}].engine.max_batch")
    choice = _aggregated(plan) if plan.mode == "aggregated" else _split(plan)
    return plan_of(_problem(plan), choice, [(w.group, w.engine) for w in plan.workers])


def _problem(plan: ServingPlan, **changes: object) -> Problem:
    """What the plan answers; the goal is one that leaves prefill no busier than asked."""
    problem = Problem(
        model=plan.model,
        cluster=plan.cluster,
        workload=plan.workload,
        objective="devices",
        limits=plan.limits,
        headroom=plan.headroom,
        constants=plan.cost_model,
    )
    return msgspec.structs.replace(problem, **changes)


def _check_room(plan: ServingPlan, worker: Worker, pointer: str) -> None:
    """Raise if an engine does not hold what it has to: its whole batch, or one request."""
    work, engine = plan.workload, worker.engine
    tokens = work.input_len + (0 if worker.role == "prefill" else work.output_len)
    step = step_of(_problem(plan), worker.group, msgspec.structs.replace(engine, max_batch=2**31))
    held = int(step.sequences_that_fit(tokens))
    waits = worker.role == "prefill" or (worker.role == "serve" and work.concurrency is not None)
    if held < 1:
        raise InputError(
            f"an engine of {engine.num_devices} {worker.device} does not hold one request of "
            f"{tokens} tokens beside its weights",
            pointer=pointer.rpartition(".")[0],
            fix="spread it over more devices, or choose smaller numbers",
        )
    if held < engine.max_batch and not waits:
        raise InputError(
            f"max_batch is {engine.max_batch}, and beside the weights {held} sequences of {tokens} "
            f"tokens fit on an engine of {engine.num_devices} {worker.device}",
            pointer=pointer,
            fix=f"write {held} or less, or spread the engine over more devices",
        )


def _aggregated(plan: ServingPlan) -> Choice:
    """Engines that do both phases, each under its load."""
    work = plan.workload
    if work.concurrency is None:
        loads = [w.engine.max_batch * w.engine.attention_dp for w in plan.workers]
    else:
        total = sum(w.share for w in plan.workers)
        if abs(total - 1.0) > _TIE:
            raise InputError(
                f"the shares of the load sum to {total:.6g}",
                pointer="$.workers",
                fix="let them sum to 1",
            )
        loads = [max(1, -(-round(w.share * work.concurrency) // w.count)) for w in plan.workers]
    problem = _problem(plan)
    found = [
        closed_loop(
            step_of(problem, w.group, w.engine), work.input_len, work.output_len, n, work.prefix_len
        )
        for w, n in zip(plan.workers, loads, strict=True)
    ]
    rates = [w.count * one.request_rate_per_s for w, one in zip(plan.workers, found, strict=True)]
    shares = [rate / sum(rates) if work.rate_per_s else 1.0 for rate in rates]
    if work.concurrency is not None:
        shares = [w.share for w in plan.workers]
        rates = [
            work.concurrency * share / one.request_s
            for share, one in zip(shares, found, strict=True)
        ]
    elif work.rate_per_s is None:
        shares = [rate / sum(rates) for rate in rates]
    picks = [
        _pick(worker, number, load, share)
        for number, (worker, load, share) in enumerate(
            zip(plan.workers, loads, shares, strict=True)
        )
    ]
    return Choice(
        mode="aggregated",
        picks=tuple(picks),
        value=0.0,
        devices=plan.num_devices,
        rate_per_s=sum(rates),
        ttft_s=max(one.ttft_s for one in found),
        tpot_s=max(one.tpot_s for one in found),
    )


def _pick(worker: Worker, number: int, load: int = 1, share: float = 1.0) -> Pick:
    return Pick(
        role=worker.role,
        engine=number,
        chunk=worker.engine.chunk_tokens,
        batch=worker.engine.max_batch,
        load=load,
        count=worker.count,
        share=share,
    )


def _split(plan: ServingPlan) -> Choice:
    """Prefill and decode workers; as busy as the target of the first token leaves them, if any."""
    prefill, decode = plan.workers
    pins: dict[str, tuple[str, ...]] = {
        "prefill.chunk": (str(prefill.engine.chunk_tokens),),
        "decode.chunk": (str(decode.engine.chunk_tokens),),
        "decode.batch": (str(decode.engine.max_batch),),
    }
    work = msgspec.structs.replace(plan.workload, tpot_s=None)
    problem = _problem(plan, limits=Limits(pin=pins), workload=work)
    left = prefill_workers(problem, _table(problem, prefill))
    right = decode_workers(problem, _table(problem, decode))
    link = link_bytes_per_s(plan.cluster, prefill.group, decode.group)
    numbers = np.array([prefill.count]), np.array([decode.count])
    times = Operating(problem, left, right, link)
    rate, ttft, busy = times.at(*numbers)
    if rate[0] <= 0.0:  # the target is out of reach: what would be without it
        work = msgspec.structs.replace(work, ttft_s=None)
        problem = msgspec.structs.replace(problem, workload=work)
        times = Operating(problem, left, right, link)
        rate, ttft, busy = times.at(*numbers)
    return Choice(
        mode="disaggregated",
        picks=(_pick(prefill, 0), _pick(decode, 1)),
        value=0.0,
        devices=plan.num_devices,
        rate_per_s=float(rate[0]),
        ttft_s=float(ttft[0]),
        tpot_s=float(right.tpot_s[0]),
        busy=float(busy[0]),
        move_s=float(times.move_s[0]),
    )


def _table(problem: Problem, worker: Worker) -> EngineTable:
    step = step_of(problem, worker.group, worker.engine)
    return table_of(problem.cluster, [(worker.group, worker.engine, step)])
