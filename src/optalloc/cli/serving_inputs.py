"""The inputs of the serving verbs: model, cluster, workload and limits, from flags or files."""

from __future__ import annotations

import argparse
import sys

from optalloc.cli.flags import said_by_flags
from optalloc.cli.workloads import workload_of
from optalloc.units import parse_duration
from optalloc.workload import Serving

# Flag -> field of the workload.
_FLAGS = {
    "input_len": "--input-len",
    "output_len": "--output-len",
    "rate_per_s": "--rate",
    "concurrency": "--concurrency",
    "ttft_s": "--ttft",
    "tpot_s": "--tpot",
    "percentile": "--percentile",
    "prefix_len": "--prefix-len",
}
# Targets from which on a number without a unit was likely meant in milliseconds.
_LONG_S = {"ttft_s": 30.0, "tpot_s": 1.0}


def add_workload(parser: argparse.ArgumentParser) -> None:
    """Arguments that say what is asked of the model."""
    parser.add_argument("--workload", metavar="FILE", help="a workload.toml; flags come before it")
    parser.add_argument("--input-len", type=int, metavar="N", help="tokens of a prompt, mean")
    parser.add_argument("--output-len", type=int, metavar="N", help="tokens of an answer, mean")
    parser.add_argument(
        "--rate", type=float, metavar="R", dest="rate_per_s", help="requests each second"
    )
    parser.add_argument("--concurrency", type=int, metavar="Q", help="requests in flight")
    parser.add_argument(
        "--ttft", metavar="TIME", dest="ttft_s", help="target of the first token, such as 300ms"
    )
    parser.add_argument(
        "--tpot", metavar="TIME", dest="tpot_s", help="target of each further token, such as 20ms"
    )
    parser.add_argument(
        "--percentile",
        type=float,
        metavar="P",
        help="percent of the requests that meet the targets, such as 90",
    )
    parser.add_argument(
        "--prefix-len", type=int, metavar="N", help="tokens of a prompt that are cached already"
    )


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Arguments that widen or narrow the space."""
    parser.add_argument(
        "--software", metavar="NAME,...", help="vllm, sglang, trtllm; default: vllm"
    )
    parser.add_argument(
        "--weights",
        metavar="TYPE,...",
        help="types of weights to choose from: bf16, fp8, fp8-block, nvfp4, mxfp4, int4; "
        "default: bf16",
    )
    parser.add_argument(
        "--kv", metavar="TYPE,...", help="types of the cache: bf16, fp8; default: bf16"
    )
    parser.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="fix a decision, for example tp=8, decode.batch=64 or mode=aggregated",
    )
    parser.add_argument(
        "--forbid", action="append", default=[], metavar="NAME=VALUE", help="exclude a decision"
    )
    parser.add_argument(
        "--headroom",
        metavar="SHARE",
        default="10%",
        help="share of the capacity kept free where --rate is given; default: 10%%",
    )
    parser.add_argument(
        "--calibration", metavar="FILE.toml", help="constants in place of the package's own"
    )


def pins(arguments: argparse.Namespace) -> list[str]:
    """What ``--pin`` and its shorter forms say.

    Raises
    ------
    InputError
        If a shorter form has an unknown value.
    """
    from optalloc.serving.configuration.limits import parse_limits

    words = list(arguments.pin)
    for name in ("software", "weights", "kv"):
        if getattr(arguments, name) is not None:
            words.append(f"{name}={getattr(arguments, name)}")
            with said_by_flags({"--pin": f"--{name}"}):
                parse_limits(words[-1:])
    return words


def _seconds(text: str, flag: str) -> float:
    """A target; a plain number that is long for seconds is likely meant in milliseconds."""
    found = parse_duration(text, path=flag)
    if text.strip()[-1:].isdigit() and _LONG_S[f"{flag[2:]}_s"] <= found < float("inf"):
        told = f"{flag} {text} is {found:g} seconds; for milliseconds write {text.strip()}ms"
        print(f"optalloc: {told}.", file=sys.stderr)
    return found


def read_serving(arguments: argparse.Namespace) -> Serving:
    """The workload file with the flags put over it, or the flags alone.

    Raises
    ------
    InputError
        If the file is of another kind, lengths are missing, or a value makes no sense.
    """
    given: dict[str, object] = {}
    for name, flag in _FLAGS.items():
        value = getattr(arguments, name, None)
        if value is not None:
            given[name] = _seconds(value, flag) if name in _LONG_S else value
    needed = ("input_len", "output_len")
    return workload_of(arguments, Serving, given, _FLAGS, needed=needed, merged=_merged)


def _merged(fields: dict[str, object], given: dict[str, object]) -> dict[str, object]:
    """A rate given takes the place of the file's requests in flight, and the other way round."""
    for one, other in (("rate_per_s", "concurrency"), ("concurrency", "rate_per_s")):
        if one in given:
            fields = fields | {other: None}
    return fields | given
