"""FlexGen's linear programme: shares of weights, cache and hidden values on one GPU's machine.

A baseline, not a plan: shares of equal layers are divided freely, so no tool can run them as they
are, and loading, computing and storing overlap fully.

*Formulation.* Variables in [0, 1]: w, c (weights, cache) on GPU, CPU and disk, h (hidden values) on
GPU and CPU; each sums to 1. With W the bytes of a mean layer, K those of its cache at the end of a
prompt, H those of the hidden values of a phase:

    minimise   l Tpre + l (n - 1) Tgen                       l layers, n output tokens
    Tpre >=    to the GPU        (W (wc + wd) + H hc) / link
               from the GPU      (K (cc + cd) + H hc) / link
               from disk         W wd / disk
               to disk           K cd / disk
               computing         FLOPs / GPU
    Tgen >=    to the GPU        (W (wc + wd) + H hc) / link
               from disk         (W wd + K' cd) / disk        K' at the mean length
               computing         max of W / bandwidth and FLOPs on the GPU
                                 + K' (cg / bandwidth + (cc + cd) / CPU bandwidth)
    GPU        l (W wg + Kmax cg) + H hg + work space + 2 W (1 - wg)  <=  its memory
    CPU        l (W wc + Kmax cc) + H hc + W (1 - wg)                 <=  its memory
    disk       l (W wd + Kmax cd)                                     <=  its size

Cache that is not on the GPU is attended to by the CPU and does not travel. Reference: Sheng et al.,
"FlexGen: High-Throughput Generative Inference of Large Language Models with a Single GPU" (ICML
2023), section 4.3 and appendix A.2; the two constraints of the published code that keep hidden
values off the disk are kept, its fitted memory factors are not.
"""

from __future__ import annotations

from typing import Any

import msgspec

from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.serving.offload.generation import Generation
from optalloc.serving.offload.machine import Machine
from optalloc.serving.offload.parts import chain_of


class FlexGenPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Shares on GPU, CPU and disk, and the seconds of a request over the layers alone."""

    request_s: float
    weights: tuple[float, float, float]
    cache: tuple[float, float, float]
    hidden: tuple[float, float]


def flexgen_policy(
    model: ModelSpec, machine: Machine, generation: Generation
) -> FlexGenPolicy | None:
    """FlexGen's best shares; None where its programme has no solution.

    Raises
    ------
    InputError
        If the machine has not one GPU, or the model has experts, which FlexGen does not know.

    Complexity: a linear programme of ten variables.
    """
    from highspy import HighsModelStatus

    from optalloc.assignment.milp import QuietHighs

    chain = chain_of(model, generation)
    layers = chain.places[1:-1]
    kinds = {part.kind for parts in layers for part in parts}
    if len(machine.gpus) != 1 or "experts" in kinds:
        raise InputError(
            "FlexGen plans dense models on one GPU", path="flexgen", fix="use plan_offload"
        )
    (gpu,), cpu, disk = machine.gpus, machine.cpu, machine.disk
    count = len(layers)
    flat = [part for parts in layers for part in parts]
    weights = [part for part in flat if part.kind != "kv"]
    caches = [part for part in flat if part.kind == "kv"]
    w = sum(part.size_bytes for part in weights) / count
    room = sum(part.size_bytes for part in caches) / count
    written = room * generation.prompt_tokens / generation.context_tokens
    read = sum(part.decode.read_bytes for part in caches) / count
    prompt_h, token_h = (float(size) for size in chain.hop_bytes)
    passes = chain.prefill_passes

    highs = QuietHighs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)

    def shares(most: float) -> list[Any]:
        found = [highs.addVariable(lb=0.0, ub=ub) for ub in (1.0, 1.0, most)]
        highs.addConstr(sum(found[1:], found[0]) == 1.0)
        return found

    on_disk = 0.0 if disk is None else 1.0
    wg, wc, wd = shares(on_disk)
    cg, cc, cd = shares(on_disk)
    hg, hc, _ = shares(0.0)
    prefill = highs.addVariable(lb=0.0, obj=float(count))
    decode = highs.addVariable(lb=0.0, obj=float(count * chain.decode_passes))
    link = gpu.link_bandwidth_bytes_per_s
    flops = sum(part.prefill.passes * part.prefill.flops for part in flat) / count
    highs.addConstr(prefill >= passes * (w / link * (wc + wd) + prompt_h / link * hc))
    highs.addConstr(prefill >= written / link * (cc + cd) + passes * prompt_h / link * hc)
    highs.addConstr(1.0 * prefill >= flops / gpu.flops_per_s)
    highs.addConstr(decode >= w / link * (wc + wd) + token_h / link * hc)
    computing = max(
        w / gpu.memory_bandwidth_bytes_per_s,
        sum(part.decode.flops for part in weights) / count / gpu.flops_per_s,
    )
    highs.addConstr(
        decode
        >= computing
        + read / gpu.memory_bandwidth_bytes_per_s * cg
        + read / cpu.memory_bandwidth_bytes_per_s * (cc + cd)
    )
    if disk is not None:
        speed = disk.bandwidth_bytes_per_s
        highs.addConstr(prefill >= passes * w / speed * wd)
        highs.addConstr(1.0 * prefill >= written / speed * cd)
        highs.addConstr(decode >= w / speed * wd + read / speed * cd)
        highs.addConstr(count * (w * wd + room * cd) / 1e9 <= disk.size_bytes / 1e9)
    on_gpu = count * (w * wg + room * cg) + prompt_h * hg + 2.0 * w * (wc + wd)
    highs.addConstr(on_gpu / 1e9 <= (gpu.memory_bytes - chain.workspace_bytes) / 1e9)
    on_cpu = count * (w * wc + room * cc) + prompt_h * hc + w * (wc + wd)
    highs.addConstr(on_cpu / 1e9 <= (cpu.memory_bytes - chain.workspace_bytes) / 1e9)
    highs.run()
    if highs.getModelStatus() != HighsModelStatus.kOptimal:
        return None
    values = [max(0.0, float(x)) for x in highs.getSolution().col_value]
    return FlexGenPolicy(
        request_s=float(highs.getInfo().objective_function_value),
        weights=(values[0], values[1], values[2]),
        cache=(values[3], values[4], values[5]),
        hidden=(values[6], values[7]),
    )
