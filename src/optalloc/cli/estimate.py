"""optalloc estimate: predict one configuration that a person writes, without search."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import msgspec

from optalloc import files
from optalloc.cli.answers import add_format, answered, colored
from optalloc.errors import InputError, known_fix, nearest

if TYPE_CHECKING:
    from optalloc.cluster.topology import Cluster
    from optalloc.cost.model import CostModel
    from optalloc.training.strategy import Recompute, Strategy

_NUMBERS = (
    "tp",
    "cp",
    "pp",
    "dp",
    "ep",
    "virtual_stages",
    "micro_batch",
    "zero_stage",
    "shard_group",
)
_NAMES = (*_NUMBERS, "schedule", "sequence_parallel", "layers", "recompute")
_SHORT = {
    "vpp": "virtual_stages",
    "zero": "zero_stage",
    "sp": "sequence_parallel",
    "layers_per_chunk": "layers",
}
_SWITCH = {"on": True, "off": False, "true": True, "false": False, "yes": True, "no": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    from optalloc.cli.training_inputs import add_inputs

    add_inputs(parser)
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="the configuration, for example tp=8 pp=4 dp=2 micro_batch=1 recompute=full "
        f"layers=20,20,20,20. Names: {', '.join(_NAMES)}. Recompute: none, selective, full, auto "
        "(the least that fits, equal on all stages), or one entry a stage such as 13,0,0,0 (the "
        "first layers of each chunk)",
    )
    parser.add_argument(
        "--strategy", metavar="FILE", help="the same as a TOML file; --set comes before it"
    )
    add_format(parser)
    parser.add_argument("-o", "--output", metavar="PATH", help="write the plan, plan.json")


def run(arguments: argparse.Namespace) -> int:
    """Predict and print; returns the exit status."""
    from optalloc.cli.training_inputs import cost_model, read_inputs
    from optalloc.cost.model import CostModel
    from optalloc.report import training as report
    from optalloc.report import training_facts as facts
    from optalloc.report.plan_tables import plan_tables
    from optalloc.report.table import render
    from optalloc.training.estimate import build_plan

    model, cluster, workload = read_inputs(arguments)
    words = parse_words(arguments.set)
    if is_mixed(cluster, words, arguments.strategy):
        from optalloc.cli import mixed
        from optalloc.training.mixed.estimate import estimate_mixed
        from optalloc.training.mixed.strategy import MixedStrategy

        written = files.read_toml(arguments.strategy, MixedStrategy)
        named = cost_model(arguments)
        unequal = estimate_mixed(model, cluster, workload, written, cost_model=named)
        return mixed.show_estimate(arguments, unequal)
    cost = CostModel(model, cluster, workload, name=cost_model(arguments))
    try:
        plan = build_plan(cost, strategy_of(cost, words, arguments.strategy))
    except InputError as error:
        if error.path not in ("", "strategy"):
            raise
        where = arguments.strategy or "--set"
        raise InputError(error.what, path=where, pointer=error.pointer, fix=error.fix) from error
    tables = plan_tables(plan) if arguments.format == "table" else [facts.stages_raw(plan)]
    with answered(arguments.output, plan.save):
        if arguments.format == "table":
            print(report.estimate_headline(plan))
        print(render(tables, facts.estimate_facts(plan), arguments.format, color=colored()), end="")
    if arguments.format == "table" and arguments.output is not None:
        print(f"Saved {arguments.output}. Next: optalloc explain {arguments.output}")
    return 0


def is_mixed(cluster: Cluster, words: dict[str, str], path: str | None) -> bool:
    """True if a strategy of unequal stages is to be predicted.

    Raises
    ------
    InputError
        If the cluster is mixed and no file says which stage runs where, or the file is no TOML.
    """
    if not cluster.is_uniform and (words or path is None):
        raise InputError(
            f"the cluster is mixed ({cluster.mixture}), and its stages differ",
            path="--set",
            fix="write micro_batch and [[replicas]] with their stages to a file for --strategy",
        )
    if path is None:
        return False
    return not cluster.is_uniform or "replicas" in files.read_table(path)


def parse_words(words: list[str]) -> dict[str, str]:
    """``["tp=8", "zero=1"]`` as ``{"tp": "8", "zero_stage": "1"}``.

    Raises
    ------
    InputError
        If a name is unknown or stands there twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().replace("-", "_")
        name = _SHORT.get(name, name)
        if not equals or name not in _NAMES:
            near = nearest(name, [*_NAMES, *_SHORT], count=1)
            raise InputError(
                f"{word!r} sets nothing",
                path="--set",
                fix=f"did you mean {near[0]}=...?" if near else f"use one of {', '.join(_NAMES)}",
            )
        if name in found:
            raise InputError(f"{name} is set twice", path="--set", fix="keep one of them")
        found[name] = text.strip()
    return found


def strategy_of(cost: CostModel, words: dict[str, str], path: str | None) -> Strategy:
    """The strategy of a file with words put over it; what is not said is at its usual value.

    Sequence parallelism is on where tp > 1 allows it; several chunks are interleaved.
    """
    from optalloc.training.estimate import complete, with_least_recompute
    from optalloc.training.strategy import Strategy

    strategy = Strategy() if path is None else files.read_toml(path, Strategy)
    fields = {name: _whole(name, words[name]) for name in _NUMBERS if name in words}
    if "layers" in words:
        layers = tuple(_whole("layers", part) for part in words["layers"].split(","))
    elif {"pp", "virtual_stages"} & set(words):
        layers = ()
    else:
        layers = strategy.layers_per_chunk
    recompute = () if "recompute" in words or "pp" in words else strategy.recompute
    strategy = msgspec.structs.replace(
        strategy, **fields, layers_per_chunk=layers, recompute=recompute
    )
    schedule = words.get("schedule")
    if schedule is None and path is None and strategy.virtual_stages > 1:
        schedule = "interleaved"
    if schedule is not None:
        strategy = _with_schedule(strategy, schedule)
    if "sequence_parallel" in words:
        strategy = msgspec.structs.replace(
            strategy, sequence_parallel=_switch(words["sequence_parallel"])
        )
    elif path is None:
        strategy = msgspec.structs.replace(
            strategy, sequence_parallel=_usual_sequence_parallel(cost, strategy)
        )
    strategy = complete(strategy, cost.num_layers)
    if "recompute" not in words:
        return strategy
    if words["recompute"] == "auto":
        return with_least_recompute(cost, strategy)
    return msgspec.structs.replace(strategy, recompute=_recompute(words["recompute"], strategy))


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(
            f"{text!r} is no whole number", path="--set", pointer=name, fix=f"write {name}=8"
        ) from None


def _switch(text: str) -> bool:
    if text.lower() in _SWITCH:
        return _SWITCH[text.lower()]
    raise InputError(
        f"{text!r} is neither on nor off",
        path="--set",
        pointer="sequence_parallel",
        fix="write sequence_parallel=on",
    )


def _with_schedule(strategy: Strategy, schedule: str) -> Strategy:
    from optalloc.cost.meshes import SCHEDULES

    if schedule not in SCHEDULES:
        raise InputError(
            f"there is no schedule {schedule!r}",
            path="--set",
            pointer="schedule",
            fix=known_fix(schedule, SCHEDULES),
        )
    return msgspec.structs.replace(strategy, schedule=schedule)


def _usual_sequence_parallel(cost: CostModel, strategy: Strategy) -> bool:
    """On where tp > 1 and every sequence divides; experts cannot do without it."""
    if strategy.tp == 1:
        return False
    if any(op.experts for layer in cost.graph.layers for op in layer.ops):
        return True
    workload = cost.workload
    lengths = [workload.sequence_length]
    if cost.graph.encoder_decoder and workload.decoder_sequence_length:
        lengths.append(workload.decoder_sequence_length)
    return all(length % (strategy.tp * strategy.cp) == 0 for length in lengths)


def _recompute(text: str, strategy: Strategy) -> tuple[Recompute, ...]:
    """One rule for all stages, or one entry a stage."""
    entries = text.split(",")
    if len(entries) == 1:
        entries *= strategy.pp
    if len(entries) != strategy.pp:
        raise InputError(
            f"recompute has {len(entries)} entries for {strategy.pp} stages",
            path="--set",
            pointer="recompute",
            fix=f"give one entry, or {strategy.pp}",
        )
    return tuple(
        _rule(entry.strip(), max(strategy.layers_per_chunk[stage :: strategy.pp]))
        for stage, entry in enumerate(entries)
    )


def _rule(word: str, most: int) -> Recompute:
    """``none``, ``selective``, ``full``, or how many layers of each chunk are recomputed whole."""
    from optalloc.training.strategy import Recompute

    known = {
        "none": Recompute(),
        "selective": Recompute(selective=most),
        "full": Recompute(full=most),
    }
    if word in known:
        return known[word]
    if word.isdecimal():
        return Recompute(full=int(word))
    near = nearest(word, known, count=1)
    raise InputError(
        f"{word!r} is no kind of recomputation",
        path="--set",
        pointer="recompute",
        fix=f"did you mean {near[0]!r}?" if near else "use none, selective, full, auto or a number",
    )
