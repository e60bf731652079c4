"""The problem of ``optalloc fleet``: a file, or a model on devices under buckets or a trace."""

from __future__ import annotations

import argparse

from optalloc.cli.flags import said_by_flags
from optalloc.errors import InputError
from optalloc.serving.mix.instance import load_fleet, read_table, save_fleet
from optalloc.serving.mix.problem import MOST_PER_S, Bucket, FleetProblem
from optalloc.serving.mix.profile import FleetProfile, fleet_of_model


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that stand in for a file."""
    group = parser.add_argument_group("a model instead of FILE")
    group.add_argument("--model", help="a bundled name, a config.json or its folder")
    group.add_argument("--devices", metavar="NAMES", help="of the catalogue, such as a10g,h100-sxm")
    group.add_argument(
        "--buckets",
        metavar="CSV",
        help="input_len,output_len,rate_per_s; or a trace of requests, grouped by size",
    )
    group.add_argument("--rate", type=float, metavar="R", help="requests/s (default: the trace's)")
    group.add_argument("--widths", metavar="TP", default="1,2,4,8", help="default: 1,2,4,8")
    group.add_argument("--ttft", metavar="TIME", help="target of the first token, such as 1s")
    group.add_argument("--tpot", metavar="TIME", help="target of each further token, such as 50ms")
    group.add_argument("--software", choices=("vllm", "sglang", "trtllm"), default="vllm")
    group.add_argument(
        "--weights",
        choices=("bf16", "fp8", "fp8-block", "nvfp4", "mxfp4", "int4"),
        default="bf16",
        help="type of the weights (default: bf16)",
    )
    group.add_argument("--kv", choices=("bf16", "fp8"), default="bf16", help="type of the cache")
    group.add_argument(
        "--instance", metavar="PATH", help="also write the problem, to be edited and read again"
    )
    group.add_argument(
        "--simulate",
        type=int,
        metavar="N",
        help="replay N Poisson requests on each offer of the fleet, and report latencies",
    )


def fleet_inputs(arguments: argparse.Namespace) -> tuple[FleetProblem, FleetProfile | None]:
    """The problem, and what is behind its offers where they come from a model.

    Raises
    ------
    InputError
        If neither or both of file and model are given, or either makes no sense.
    """
    if (arguments.file is None) == (arguments.model is None):
        raise InputError(
            "give a fleet file or a model, one of the two",
            path="optalloc fleet",
            fix="for example 'optalloc fleet fleet.toml', or '--model M --devices D --buckets B'",
        )
    if arguments.file is not None:
        for name in ("devices", "buckets", "rate", "ttft", "tpot", "instance"):
            if getattr(arguments, name) is not None:
                raise InputError(
                    f"a fleet file is planned without --{name}",
                    path=f"--{name}",
                    fix="leave it out, or give --model in place of the file",
                )
        if arguments.simulate is not None:
            raise InputError(
                "a table of throughputs does not say how long an iteration takes",
                path="--simulate",
                fix="give --model, --devices and --buckets instead of a file",
            )
        return load_fleet(arguments.file), None
    profile = _of_model(arguments)
    if arguments.instance is not None:
        save_fleet(profile.problem, arguments.instance)
    return profile.problem, profile


def _of_model(arguments: argparse.Namespace) -> FleetProfile:
    from optalloc.cost.engine.setup import Engine
    from optalloc.model.load import load_model
    from optalloc.units import parse_duration

    for name in ("devices", "buckets"):
        if getattr(arguments, name) is None:
            raise InputError(f"a model needs --{name}", path="optalloc fleet", fix=f"give --{name}")
    try:
        widths = [int(word) for word in arguments.widths.split(",")]
    except ValueError:
        widths = [0]
    if min(widths) < 1:
        raise InputError(
            f"{arguments.widths!r} is no list of widths", path="--widths", fix="write 1,2,4"
        )
    targets = {
        name: None if word is None else parse_duration(word, path=f"--{name}")
        for name, word in (("ttft", arguments.ttft), ("tpot", arguments.tpot))
    }
    flags = {"device": "--devices", "devices": "--devices", "widths": "--widths"}
    with said_by_flags(flags | {"buckets": arguments.buckets}):
        return fleet_of_model(
            load_model(arguments.model),
            [name for name in arguments.devices.split(",") if name],
            _buckets(arguments.buckets, arguments.rate),
            engine=Engine(
                software=arguments.software, weight_dtype=arguments.weights, kv_dtype=arguments.kv
            ),
            widths=widths,
            ttft_s=targets["ttft"],
            tpot_s=targets["tpot"],
        )


def _buckets(path: str, rate_per_s: float | None) -> tuple[Bucket, ...]:
    """Buckets of a table, or of a trace; a rate scales either."""
    import msgspec

    from optalloc.files import read_text

    if rate_per_s is not None and not 0.0 <= rate_per_s <= MOST_PER_S:
        raise InputError(
            f"the rate is {rate_per_s:g} requests/s",
            path="--rate",
            fix=f"give 0 to {MOST_PER_S:,.0f}",
        )
    head = read_text(path).partition("\n")[0]
    if path.endswith(".csv") and "input_len" in head:
        buckets, _ = read_table(path)
        total = sum(bucket.rate_per_s for bucket in buckets)
        if rate_per_s is None or total <= 0.0:
            return buckets
        return tuple(
            msgspec.structs.replace(b, rate_per_s=b.rate_per_s * rate_per_s / total)
            for b in buckets
        )
    from optalloc.serving.mix.buckets import buckets_of
    from optalloc.simulate.requests.traces import NAMES, read_trace

    if path.endswith(".csv") and not any(name in head for name in NAMES["arrival_s"]):
        raise InputError(
            f"its columns {head.strip() or '(none)'} are neither those of buckets nor of a trace",
            path=path,
            pointer="line 1",
            fix="name them input_len,output_len,rate_per_s, or arrival_s,input_tokens,"
            "output_tokens for one request a line",
        )
    requests = read_trace(path)
    duration_s = float(requests.arrival_s[-1] - requests.arrival_s[0])
    if rate_per_s is None:
        if duration_s <= 0.0:
            raise InputError(
                "all requests of the trace arrive at once", path=path, fix="give --rate"
            )
        rate_per_s = len(requests) / duration_s
    return buckets_of(
        requests.input_tokens.tolist(), requests.output_tokens.tolist(), rate_per_s=rate_per_s
    )
