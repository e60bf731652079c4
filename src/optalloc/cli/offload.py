"""``optalloc offload``: weights, experts and KV cache over GPUs, CPU memory and disk."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from optalloc.cli.answers import add_search, answered, colored, status, stop_rule
from optalloc.cli.flags import said_by_flags

if TYPE_CHECKING:
    from optalloc.model.spec import ModelSpec
    from optalloc.serving.offload.generation import Generation
    from optalloc.serving.offload.machine import Machine
    from optalloc.serving.offload.plan import OffloadPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("model", metavar="MODEL", help="a bundled name, a config.json, its folder")
    parser.add_argument(
        "--machine",
        required=True,
        metavar="MACHINE",
        help="for example 2xrtx-4090+64gb-ram+1tb-disk (memory not given: 64 GiB), or a "
        "machine.toml",
    )
    parser.add_argument("--input-len", type=int, default=1024, help="tokens of a prompt (1024)")
    parser.add_argument("--output-len", type=int, default=256, help="tokens generated (256)")
    parser.add_argument("--batch", type=int, default=1, help="sequences at once (1)")
    parser.add_argument(
        "--context",
        default="0",
        metavar="N|max",
        help="tokens the KV cache has room for (default: prompt and output); max: as many as "
        "keep the speed",
    )
    parser.add_argument(
        "--min-rate", type=float, metavar="R", help="output tokens/s that --context max keeps"
    )
    parser.add_argument("--dtype", default="bf16", help="of the weights, for example q4_k (bf16)")
    parser.add_argument("--expert-dtype", help="of the experts (default: as --dtype)")
    parser.add_argument(
        "--kv-dtype", default="bf16", help="bf16, q8_0, fp8, q4_0, or auto: what costs no speed"
    )
    parser.add_argument("--chunk", type=int, default=512, help="prompt tokens at once (512)")
    parser.add_argument(
        "--for",
        dest="tool",
        default="any",
        metavar="TOOL",
        help="plan only what accelerate, llama.cpp or vllm can express",
    )
    add_search(parser, output="save the plan as JSON")
    parser.add_argument("--gap-limit", type=float, metavar="GAP", help="stop at this relative gap")


# Argument -> the flag that gives it.
_FLAGS = {
    "prompt_tokens": "--input-len",
    "output_tokens": "--output-len",
    "batch": "--batch",
    "chunk_tokens": "--chunk",
    "context": "--context",
    "min_rate": "--min-rate",
    "dtype": "--dtype",
    "expert_dtype": "--expert-dtype",
    "kv_dtype": "--kv-dtype",
}


def run(arguments: argparse.Namespace) -> int:
    """Plan, print and save; returns the exit status."""
    from optalloc.cli.progress import progress_line
    from optalloc.model.load import load_model
    from optalloc.report.offload import offload_tables
    from optalloc.report.table import render
    from optalloc.serving.offload.machine import load_machine
    from optalloc.serving.offload.solve import plan_offload

    model, machine = load_model(arguments.model), load_machine(arguments.machine)
    flags = _FLAGS if arguments.context != "0" else _FLAGS | {"context": "--input-len"}
    with said_by_flags(flags):
        generation = _generation(arguments, model, machine)
    line_of = progress_line(lambda seconds: f"{seconds:,.6g} s")
    with said_by_flags(flags), line_of as line:
        result = plan_offload(
            model,
            machine,
            generation,
            runtime=arguments.tool,
            stop=stop_rule(arguments),
            on_progress=line,
        )
    best = result.best
    with answered(arguments.output, None if best is None else best.save):
        print(render(offload_tables(result), result, arguments.format, color=colored()), end="")
    if best is not None and arguments.output is not None and arguments.format == "table":
        print(_next(arguments.output, arguments.tool))
    return status(result, best, require_optimal=arguments.require_optimal)


def _next(path: str, tool: str) -> str:
    if tool == "any":
        return (
            f"Saved {path}. Next: optalloc explain {path}; a plan for a tool takes "
            "--for accelerate, llama.cpp or vllm"
        )
    return f"Saved {path}. Next: optalloc export {path} --to {tool} -o FOLDER"


def _generation(arguments: argparse.Namespace, model: ModelSpec, machine: Machine) -> Generation:
    """What is asked, with context and type of the cache chosen where they are left open."""
    import msgspec

    from optalloc.errors import InputError
    from optalloc.export.offload.modules import modules_of
    from optalloc.serving.offload.generation import KV_BITS, Generation
    from optalloc.serving.offload.solve import best_kv_dtype, check_generation, longest_context

    longest = arguments.context == "max"
    if arguments.min_rate is not None and not (longest and arguments.min_rate > 0.0):
        raise InputError(
            f"no context is chosen by a speed of {arguments.min_rate:g} tokens/s",
            path="--min-rate",
            fix="give a number above 0, with --context max",
        )
    if not longest and not arguments.context.isdigit():
        raise InputError(
            f"{arguments.context!r} is no number of tokens",
            path="--context",
            fix="write 8192 or max",
        )
    automatic = arguments.kv_dtype == "auto"
    if not automatic and arguments.kv_dtype not in KV_BITS:
        raise InputError(
            f"{arguments.kv_dtype!r} is no type of a KV cache",
            path="--kv-dtype",
            fix=f"use one of {', '.join(KV_BITS)} or auto",
        )
    generation = Generation(
        prompt_tokens=arguments.input_len,
        output_tokens=arguments.output_len,
        context_tokens=0 if longest else int(arguments.context),
        batch=arguments.batch,
        chunk_tokens=arguments.chunk,
        dtype=arguments.dtype,
        expert_dtype=arguments.expert_dtype,
        kv_dtype="bf16" if automatic else arguments.kv_dtype,
    )
    if arguments.expert_dtype is not None and not any(
        layer.feed_forward.__struct_config__.tag == "experts" for layer in model.layer_types
    ):
        raise InputError(
            f"{model.name} has no experts",
            path="--expert-dtype",
            fix="leave it out, or use --dtype",
        )
    check_generation(generation, arguments.tool)
    if arguments.tool == "accelerate":
        modules_of(model)  # those that it cannot name are not planned for it
    if automatic and not longest:
        return best_kv_dtype(model, machine, generation, runtime=arguments.tool)
    generation = (
        longest_context(
            model,
            machine,
            generation,
            runtime=arguments.tool,
            tokens_per_s=arguments.min_rate,
        )
        if longest
        else generation
    )
    if not automatic:
        return generation
    kept = best_kv_dtype(model, machine, generation, runtime=arguments.tool)
    return msgspec.structs.replace(generation, kv_dtype=kept.kv_dtype)


def explain(arguments: argparse.Namespace, plan: OffloadPlan) -> int:
    """``optalloc explain`` of an offload plan."""
    from optalloc.errors import InputError
    from optalloc.report.offload import explanation_tables
    from optalloc.report.table import render
    from optalloc.serving.offload.explain import explain_offload

    for flag in ("html", "sensitivity", "pin", "forbid", "tool"):
        if getattr(arguments, flag):
            word = "for" if flag == "tool" else flag
            raise InputError(
                f"an offload plan is explained without --{word}",
                path=arguments.plan,
                fix="leave it out; every change of the machine is planned anew",
            )
    explanation = explain_offload(plan, stop=stop_rule(arguments))
    tables = explanation_tables(explanation)
    print(render(tables, explanation, arguments.format, color=colored()), end="")
    return 0


def certify(arguments: argparse.Namespace, plan: OffloadPlan) -> int:
    """``optalloc certify`` of an offload plan."""
    from optalloc.cli.plans import checked
    from optalloc.report.table import Table, render
    from optalloc.serving.offload.certify import CHECKS, certify_offload

    with checked(arguments.plan):
        bound = certify_offload(plan)
    claimed = None if plan.proof is None else plan.proof.bound_s
    optimal = claimed is not None and claimed >= plan.request_s * (1.0 - 1e-9)
    data = {
        "valid": True,
        "checks": list(CHECKS),
        "optimal": optimal,
        "request_s": plan.request_s,
        "bound_s": claimed,
        "linear_bound_s": bound,
    }
    notes = [
        f"A linear programme apart from the search: no placement is below {bound:,.6g} s; this one "
        f"takes {plan.request_s:,.6g} s."
    ]
    if claimed is not None:
        what = "proved that nothing is faster" if optimal else f"proved {claimed:,.6g} s at least"
        notes.append(f"The search {what}; it was not repeated.")
    table = Table(
        title=f"{arguments.plan} says the truth about itself.",
        columns=("computed anew, and equal",),
        rows=tuple((text,) for text in CHECKS),
        notes=tuple(notes),
    )
    print(render([table], data, arguments.format, color=colored()), end="")
    return 0
