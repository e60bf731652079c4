"""plan_offload: the fastest placement of a model on one machine, proven."""

from __future__ import annotations

import math
import time
from typing import get_args

import msgspec

from optalloc import __version__, files
from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.result import Bounds, Stats, Termination
from optalloc.serving.offload.certify import certify_offload
from optalloc.serving.offload.generation import KV_BITS, Generation, KvDtype
from optalloc.serving.offload.infeasible import why_not
from optalloc.serving.offload.machine import Machine
from optalloc.serving.offload.parts import chain_of
from optalloc.serving.offload.placement import Placement, check_fits, evaluate
from optalloc.serving.offload.plan import OffloadPlan, OffloadProof, OffloadResult
from optalloc.serving.offload.problem import OffloadProblem
from optalloc.serving.offload.runtimes import ANY, limits_of
from optalloc.serving.offload.search import Search, placement_of
from optalloc.stop import Never, OnProgress, StopRule

#: What a longer context or a more precise cache may cost of the speed, relative.
_WORTH = 0.05

#: Contexts are chosen in steps of so many tokens.
_CONTEXT_STEP = 256


def plan_offload(
    model: ModelSpec,
    machine: Machine,
    generation: Generation,
    *,
    runtime: str = ANY,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
) -> OffloadResult:
    """The placement of weights, experts and KV cache that takes a request the least time.

    Parameters
    ----------
    model : ModelSpec
        A decoder-only language model.
    machine : Machine
    generation : Generation
        Prompt, output, batch and types; its ``context_tokens`` are what the cache has room for.
    runtime : str
        Plan only what "accelerate", "llama.cpp" or "vllm" can express; "any": all there is.
    stop : StopRule, optional
        Ends the search early; the best plan and bound so far are returned.

    Returns
    -------
    OffloadResult
        ``bounds`` in seconds of a request. If nothing fits, ``conflict`` says by how much and
        ``fixes`` what would help.

    Raises
    ------
    InputError
        If the model does not generate text, or there is no such runtime.

    Complexity: exponential in the number of GPUs alone until the search ends; see
    :mod:`optalloc.serving.offload.search`.
    """
    begin, cpu = time.perf_counter(), time.process_time()
    chain = chain_of(model, generation)
    rule: StopRule = stop or Never()
    best: tuple[float, OffloadProblem, Placement] | None = None
    bound = root = math.inf
    nodes, ended = 0, True
    for limits in limits_of(runtime, machine):
        problem = OffloadProblem(machine=machine, chain=chain, limits=limits)
        most = math.inf if best is None else best[0]
        search = Search(problem, rule, on_progress, most=most)
        ended = search.run() and ended
        nodes += search.nodes
        bound, root = min(bound, search.bound), min(root, search.root)
        if search.best.tables is not None:
            best = (search.best.seconds, problem, placement_of(search.best))
    stats = Stats(wall_s=time.perf_counter() - begin, cpu_s=time.process_time() - cpu, nodes=nodes)
    if best is None:
        if not ended:
            dual = None if math.isinf(bound) else bound
            return OffloadResult(
                termination=Termination.LIMIT, bounds=Bounds(dual=dual), stats=stats
            )
        conflict, fixes = why_not(model, machine, generation, runtime)
        return OffloadResult(
            termination=Termination.INFEASIBLE,
            bounds=Bounds(),
            stats=stats,
            conflict=conflict,
            fixes=fixes,
        )
    _, problem, placement = best
    plan = offload_plan(model, generation, problem, placement, runtime)
    value = plan.request_s
    bound = value if ended else max(0.0, min(bound, value))
    proof = OffloadProof(bound_s=bound, root_bound_s=max(0.0, min(root, bound)), nodes=nodes)
    plan = msgspec.structs.replace(plan, proof=proof)
    certify_offload(plan)
    plan = msgspec.structs.replace(plan, proof=msgspec.structs.replace(proof, checked=True))
    return OffloadResult(
        termination=Termination.OPTIMAL if ended else Termination.LIMIT,
        bounds=Bounds(primal=value, dual=bound),
        stats=stats,
        best=plan,
    )


def offload_plan(
    model: ModelSpec,
    generation: Generation,
    problem: OffloadProblem,
    placement: Placement,
    runtime: str = ANY,
) -> OffloadPlan:
    """The plan of a placement that fits, without a proof.

    Raises
    ------
    InputError
        If it does not fit, or holds parts in a way that is not allowed.
    """
    found = evaluate(problem, placement)
    check_fits(found)
    decoding = found.seconds - found.prefill_s
    passes = problem.chain.decode_passes
    machine = problem.machine
    breakdown = {f"{name} computes": s for name, s in found.compute_s.items()}
    breakdown |= {"weights and cache are loaded": found.load_s, "hops": found.hop_s}
    return OffloadPlan(
        tool_version=__version__,
        model=model,
        machine=machine,
        generation=generation,
        digests={
            "model": files.digest(model),
            "machine": files.digest(machine),
            "generation": files.digest(generation),
        },
        runtime=runtime,
        limits=problem.limits,
        placement=placement,
        request_s=found.seconds,
        ttft_s=found.prefill_s,
        tpot_s=decoding / passes if passes else 0.0,
        output_tokens_per_s=generation.batch * generation.output_tokens / found.seconds,
        breakdown_s=breakdown,
        memory=found.uses,
    )


def longest_context(
    model: ModelSpec,
    machine: Machine,
    generation: Generation,
    *,
    runtime: str = ANY,
    tokens_per_s: float | None = None,
    stop: StopRule | None = None,
) -> Generation:
    """The generation with the longest context that stays fast, in steps of 256 tokens.

    Parameters
    ----------
    tokens_per_s : float, optional
        Output tokens/s to keep; default: 95 % of those with the shortest context.

    Raises
    ------
    InputError
        If the shortest context does not keep the rate.

    Notes
    -----
    A longer context takes more memory and no less time, so bisection finds the longest. The time
    itself is that of the prompt and output given.
    """

    def rate(tokens: int) -> float:
        longer = msgspec.structs.replace(generation, context_tokens=tokens)
        result = plan_offload(model, machine, longer, runtime=runtime, stop=stop)
        return 0.0 if result.best is None else result.best.output_tokens_per_s

    shortest = generation.prompt_tokens + generation.output_tokens
    fastest = rate(shortest)
    least = tokens_per_s if tokens_per_s is not None else (1.0 - _WORTH) * fastest
    if 0.0 < fastest < least:
        raise InputError(
            f"the shortest context gives {fastest:.4g} output tokens/s, below the {least:.4g} to "
            "keep",
            path="min_rate",
            fix="ask for less, or leave it out",
        )
    low = -(-shortest // _CONTEXT_STEP)
    high = (model.max_positions or 2**20) // _CONTEXT_STEP
    while low < high:
        middle = (low + high + 1) // 2
        if rate(middle * _CONTEXT_STEP) >= max(least, 1e-300):
            low = middle
        else:
            high = middle - 1
    return msgspec.structs.replace(generation, context_tokens=max(shortest, low * _CONTEXT_STEP))


def best_kv_dtype(
    model: ModelSpec,
    machine: Machine,
    generation: Generation,
    *,
    runtime: str = ANY,
    stop: StopRule | None = None,
) -> Generation:
    """The generation with the most precise cache, of 16 bits at most, that is within 5 % of the
    fastest.
    """
    kinds: list[KvDtype] = [
        k for k in get_args(KvDtype) if KV_BITS[k] <= 16.0 and k in _kv_dtypes(runtime)
    ]
    tried = []
    for kind in kinds:
        one = msgspec.structs.replace(generation, kv_dtype=kind)
        result = plan_offload(model, machine, one, runtime=runtime, stop=stop)
        tried.append((math.inf if result.best is None else result.best.request_s, one))
    fastest = min(seconds for seconds, _ in tried)
    return next(one for seconds, one in tried if seconds <= fastest * (1.0 + _WORTH))


def _kv_dtypes(runtime: str) -> tuple[str, ...]:
    """Types of a cache that a runtime has."""
    if runtime == "llama.cpp":
        return ("bf16", "q8_0", "q4_0")
    if runtime == "vllm":
        return ("bf16", "fp8")
    return ("bf16",) if runtime == "accelerate" else tuple(KV_BITS)


def check_generation(generation: Generation, runtime: str) -> None:
    """Refuse a type of weights or of cache that a runtime has not."""
    if generation.kv_dtype not in (*_kv_dtypes(runtime), "fp32"):
        raise InputError(
            f"{runtime} has no KV cache of type {generation.kv_dtype}",
            path="kv_dtype",
            fix=f"use one of {', '.join(_kv_dtypes(runtime))}",
        )
    weights = _WEIGHTS.get(runtime)
    experts = generation.expert_dtype or generation.dtype
    if weights is not None and not (experts == generation.dtype in weights):
        raise InputError(
            f"{runtime} has no weights of type {generation.dtype} with experts of type {experts}"
            if experts != generation.dtype
            else f"{runtime} has no weights of type {generation.dtype}",
            path="dtype",
            fix=f"use one of {', '.join(weights)}, for all of them",
        )


# Types that a runtime makes from 16-bit weights or reads; llama.cpp's depend on the GGUF file.
_WEIGHTS = {"accelerate": ("bf16", "fp16", "fp32"), "vllm": ("bf16", "fp16", "fp32", "fp8")}
