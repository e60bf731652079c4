"""check_plan: does a training plan say the truth about itself?

From the plan alone it builds the cost model anew, sums the costs of every chunk layer by layer,
plays the schedule, and compares: the rules of the space, the layout, memory of every stage, step
time, its breakdown, rates, money and energy, and the value and bound of the certificate. It shares
no code with the search, the space and the native kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from optalloc import files
from optalloc.cost.compute import peak_flops_per_s
from optalloc.cost.meshes import SCHEDULES, Meshes
from optalloc.cost.model import CostModel
from optalloc.errors import CertificateError
from optalloc.training.ledger import Ledger, Run
from optalloc.training.plan import Certificate, TrainingPlan

#: Relative difference below which two sums of the same floats in another order are equal.
TOLERANCE = 1e-9
_ROUNDED_BYTES = 16  # each kind of memory is rounded up to a byte


def check_plan(plan: TrainingPlan) -> None:
    """Check everything a plan claims, but for the proof that nothing better exists.

    Raises
    ------
    CertificateError
        Naming what differs, with the claimed and the true value.

    Complexity: O(stages * chunks a stage * micro-batches), in array operations.
    """
    cost = CostModel(plan.model, plan.cluster, plan.workload, name=plan.cost_model)
    for broken in (*_broken_rules(plan, cost), *_broken_layout(plan, cost)):
        raise CertificateError(f"the plan is not valid: {broken}")
    ledger = Ledger(cost.tables(_mesh(plan)), 0, cost.sequence, cost.boundary)
    runs = [
        (chunk.first_layer, chunk.num_layers)
        for turn in range(plan.degrees.virtual_stages)
        for chunk in (stage.chunks[turn] for stage in plan.stages)
    ]
    _check_stages(plan, cost, ledger, runs)
    _check_step(plan, cost, ledger, runs)
    _check_rates(plan, cost)
    if plan.certificate is not None:
        _check_certificate(plan, plan.certificate)


def _same(what: str, claimed: float, true: float, tolerance: float = TOLERANCE) -> None:
    if not abs(claimed - true) <= tolerance * max(abs(claimed), abs(true)):
        raise CertificateError(f"{what} is {true!r}, the plan says {claimed!r}")


def _mesh(plan: TrainingPlan) -> Meshes:
    d = plan.degrees
    numbers = {
        "tp": d.tp,
        "sequence": plan.sequence_parallel,
        "cp": d.cp,
        "pp": d.pp,
        "dp": d.dp,
        "ep": d.ep,
        "micro_batch": plan.micro_batch,
        "zero_stage": plan.zero_stage,
        "shard_group": plan.shard_group,
        "virtual_stages": d.virtual_stages,
        "schedule": SCHEDULES.index(plan.schedule),
        "recompute_rule": 0,
    }
    return Meshes(**{name: np.array([value], np.int64) for name, value in numbers.items()})


def _broken_rules(plan: TrainingPlan, cost: CostModel) -> Iterator[str]:
    """Rules of the decision space that the degrees break."""
    d, work, graph = plan.degrees, plan.workload, cost.graph
    for name in ("tp", "cp", "pp", "dp", "ep", "virtual_stages"):
        if getattr(d, name) < 1:
            yield f"{name} is {getattr(d, name)}"
            return
    replicas = d.dp * d.cp
    if d.tp * d.cp * d.pp * d.dp > cost.cluster.num_devices:
        yield "it uses more devices than the cluster has"
    if plan.micro_batch < 1 or (
        d.dp * plan.micro_batch * plan.num_microbatches != work.global_batch
    ):
        yield "dp * micro_batch * num_microbatches is not the global batch"
    lengths = [work.sequence_length]
    if graph.encoder_decoder:
        lengths.append(work.decoder_sequence_length or work.sequence_length)
    causal, experts = False, False
    for op in (op for layer in graph.layers for op in layer.ops):
        if op.kind == "attention" and op.shard == "tensor":
            causal = causal or op.causal
            if op.heads % d.tp:
                yield f"tp {d.tp} does not divide {op.heads} heads"
            if op.kv_heads % d.tp and d.tp % op.kv_heads:
                yield f"tp {d.tp} does not fit {op.kv_heads} key-value heads"
        if op.kind == "gemm" and op.shard == "row" and op.k % d.tp:
            yield f"tp {d.tp} does not divide the width {op.k} of {op.name}"
        if op.experts:
            experts = True
            if op.experts % d.ep:
                yield f"ep {d.ep} does not divide {op.experts} experts"
    if (d.tp * replicas) % d.ep or (d.ep > 1 and not experts):
        yield f"ep {d.ep} does not fit tp * cp * dp = {d.tp * replicas}"
    for length in lengths:
        if d.cp > 1 and length % (d.cp * (2 if causal else 1)):
            yield f"cp {d.cp} does not fit sequences of {length}"
        if plan.sequence_parallel and length % (d.tp * d.cp):
            yield f"sequence parallelism over tp {d.tp} does not fit sequences of {length}"
    if plan.sequence_parallel and d.tp == 1:
        yield "sequence parallelism without tensor parallelism"
    if experts and d.tp > 1 and not plan.sequence_parallel:
        yield "experts with tp > 1 and no sequence parallelism"
    if plan.zero_stage not in (0, 1, 2, 3):
        yield f"there is no ZeRO stage {plan.zero_stage}"
    if plan.shard_group < 0 or (plan.shard_group and replicas % plan.shard_group):
        yield f"a shard group of {plan.shard_group} does not divide {replicas} replicas"
    if (plan.schedule == "interleaved") != (d.virtual_stages > 1):
        yield f"{d.virtual_stages} chunks a stage under the schedule {plan.schedule}"
    if plan.schedule == "interleaved" and (d.pp == 1 or plan.num_microbatches % d.pp):
        yield "interleaving needs several stages and a multiple of them of micro-batches"


def _broken_layout(plan: TrainingPlan, cost: CostModel) -> Iterator[str]:
    """Stages, chunks and devices that do not add up."""
    d = plan.degrees
    used = d.tp * d.cp * d.pp * d.dp
    if plan.num_devices != used or plan.idle_devices != cost.cluster.num_devices - used:
        yield f"it uses {used} of {cost.cluster.num_devices} devices"
    if len(plan.stages) != d.pp or any(len(s.chunks) != d.virtual_stages for s in plan.stages):
        yield "it has not one entry a stage and chunk"
        return
    names = [layer.name for layer in cost.graph.types]
    done, last = 0, d.pp * d.virtual_stages - 1
    for number in range(last + 1):
        turn, index = divmod(number, d.pp)
        chunk = plan.stages[index].chunks[turn]
        if chunk.first_layer != done or chunk.num_layers < 0:
            yield f"chunk {turn} of stage {index} does not follow the one before"
        if chunk.num_layers == 0 and number not in (0, last):
            yield f"chunk {turn} of stage {index} holds no layer"
        if chunk.embedding != (number == 0) or chunk.head != (number == last):
            yield f"embedding or head of chunk {turn} of stage {index} is out of place"
        done += chunk.num_layers
    if done != cost.num_layers:
        yield f"the chunks hold {done} layers of {cost.num_layers}"
        return
    each = used // d.pp
    for index, stage in enumerate(plan.stages):
        held: dict[str, int] = {}
        for chunk in stage.chunks:
            for kind in cost.sequence[chunk.first_layer : chunk.first_layer + chunk.num_layers]:
                held[names[kind]] = held.get(names[kind], 0) + 1
        if stage.index != index or stage.num_layers != held:
            yield f"stage {index} holds {held}"
        if stage.num_devices != each or stage.devices != ((index * each, (index + 1) * each),):
            yield f"stage {index} has not the devices {index * each} to {(index + 1) * each - 1}"
        if min(stage.recompute.full, stage.recompute.selective) < 0:
            yield f"stage {index} recomputes a negative number of layers"


def _check_stages(plan: TrainingPlan, cost: CostModel, ledger: Ledger, runs: list[Run]) -> None:
    """Memory of the fullest device and times of one micro-batch, stage by stage."""
    device_bytes = cost.device.memory_bytes
    buffers = device_bytes - cost.reserve_bytes - ledger.real["capacity_bytes"]
    for i, stage in enumerate(plan.stages):
        mine, rule = runs[i :: plan.degrees.pp], stage.recompute
        pairs = list(zip(ledger.stage_chunks(i), mine, strict=True))
        needed = ledger.stage_bytes(i, mine, rule) + buffers
        total, parts = stage.memory_bytes["total"], dict(stage.memory_bytes)
        if abs(total - needed) > _ROUNDED_BYTES + TOLERANCE * needed:
            raise CertificateError(f"stage {i} needs {needed:.0f} bytes, the plan says {total}")
        if sum(size for kind, size in parts.items() if kind != "total") != total:
            raise CertificateError(f"the kinds of memory of stage {i} do not sum to {total}")
        if stage.capacity_bytes != device_bytes:
            raise CertificateError(f"a device has {device_bytes} bytes, not {stage.capacity_bytes}")
        room = device_bytes - cost.reserve_bytes
        if plan.certificate is not None and needed > room * (1.0 + 1e-12):
            raise CertificateError(f"stage {i} needs {needed:.0f} bytes of {room:.0f}")
        forward = sum(ledger.total("forward_s", c, run) for c, run in pairs)
        backward = sum(
            ledger.backward_s(c, run, rule) + ledger.total("weight_s", c, run) for c, run in pairs
        )
        _same(f"the forward of stage {i}", stage.forward_s, forward)
        _same(f"the backward of stage {i}", stage.backward_s, backward)


def _check_step(plan: TrainingPlan, cost: CostModel, ledger: Ledger, runs: list[Run]) -> None:
    rules = [stage.recompute for stage in plan.stages]
    sizes = [size for _, size in runs]
    step_s = ledger.step_s(sizes, rules) + ledger.real["fixed_s"]
    _same("the step time", plan.step_time_s, step_s)
    _same("the sum of the breakdown", math.fsum(plan.breakdown_s.values()), step_s)
    for name, value, true in (
        ("model", plan.digests.get("model"), files.digest(cost.model)),
        ("cluster", plan.digests.get("cluster"), files.digest(cost.cluster)),
        ("workload", plan.digests.get("workload"), files.digest(cost.workload)),
    ):
        if value is not None and value != true:
            raise CertificateError(f"the digest of the {name} is {true}, the plan says {value}")


def _check_rates(plan: TrainingPlan, cost: CostModel) -> None:
    """Throughput, utilisation, money and energy follow from the step time."""
    step_s, work = plan.step_time_s, plan.workload
    length = work.sequence_length
    if cost.graph.encoder_decoder:
        length += work.decoder_sequence_length or work.sequence_length
    _same("the token rate", plan.tokens_per_s, work.global_batch * length / step_s)
    device_s = step_s * plan.num_devices
    peak = peak_flops_per_s(cost.device, work.dtype)
    _same("the MFU", plan.mfu, cost.model_flops_per_step / (device_s * peak))
    _same("the energy", plan.energy_j_per_step, cost.watts_per_device * device_s)
    usd = cost.usd_per_device_s
    if (plan.price_usd_per_step is None) != (usd is None):
        raise CertificateError("the plan has a price and the device none, or the reverse")
    if usd is not None and plan.price_usd_per_step is not None:
        _same("the price", plan.price_usd_per_step, usd * device_s)


def _check_certificate(plan: TrainingPlan, certificate: Certificate) -> None:
    """The value is that of the named objective, and no bound lies above it."""
    values = {
        "step_time": plan.step_time_s,
        "price": plan.price_usd_per_step,
        "energy": plan.energy_j_per_step,
        "devices": float(plan.num_devices),
    }
    true = values.get(certificate.objective)
    if true is None:
        raise CertificateError(f"the plan has no value of the objective {certificate.objective!r}")
    _same(f"the objective {certificate.objective}", certificate.value, true)
    if certificate.bound > certificate.value * (1.0 + TOLERANCE):
        raise CertificateError(
            f"the bound {certificate.bound!r} lies above the value {certificate.value!r}"
        )
