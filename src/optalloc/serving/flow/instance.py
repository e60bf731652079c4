"""Read a layer placement problem from a file, and write one."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from optalloc import files
from optalloc.errors import InputError
from optalloc.serving.flow.problem import FlowLink, FlowNode, FlowProblem


class FlowFileNode(msgspec.Struct, frozen=True):
    """A machine: entry ``k - 1`` of ``throughput`` is tokens/s while it holds ``k`` layers.

    ``max_layers`` is the most it may hold (default: as many as there are entries). Entry ``k - 1``
    of ``step_s`` is the seconds of its step through ``k`` layers (default: ``batch_tokens`` over
    the throughput).
    """

    throughput: tuple[float, ...]
    type: str = ""
    max_layers: int | None = None
    step_s: tuple[float, ...] = ()


class FlowFile(msgspec.Struct, frozen=True):
    """An instance of layer placement as it is written in a file.

    A link ``[a, b, bandwidth, latency_s]`` between nodes holds both ways, each with the full
    bandwidth, unless ``[b, a, ...]`` is listed too; ``a`` may be "source" and ``b`` "sink".
    ``link_units`` "helix" and "bytes" are bytes/s, "bits" is bits/s. Other keys are ignored.
    """

    num_layers: int
    activation_bytes: int
    nodes: tuple[FlowFileNode, ...]
    links: tuple[tuple[int | str, int | str, float, float], ...]
    name: str = ""
    token_bytes: int = 2
    link_units: Literal["helix", "bytes", "bits"] = "helix"
    partial_inference: bool = False
    batch_tokens: float = 1.0


def load_flow(path: str | os.PathLike[str]) -> FlowProblem:
    """The problem of a JSON file in the form of :class:`FlowFile`, that of the Helix artifact.

    Raises
    ------
    InputError
        If the file cannot be read or a value makes no sense; names the file and the place.
    """
    where = str(path)
    data = files.read_json(path, FlowFile)
    nodes = []
    for index, node in enumerate(data.nodes):
        most = len(node.throughput) if node.max_layers is None else node.max_layers
        if not 0 <= most <= len(node.throughput):
            raise InputError(
                f"max_layers is {most} but {len(node.throughput)} throughputs are given",
                path=where,
                pointer=f"$.nodes[{index}]",
                fix="give one throughput for every number of layers up to max_layers",
            )
        nodes.append(
            FlowNode(
                type=node.type,
                throughput_tokens_per_s=node.throughput[:most],
                step_s=node.step_s[:most],
            )
        )
    scale = 1.0 / 8.0 if data.link_units == "bits" else 1.0
    found: dict[tuple[int | None, int | None], tuple[float, float]] = {}
    for index, (begin, end, bandwidth, latency_s) in enumerate(data.links):
        a = _end(begin, "source", where, index)
        b = _end(end, "sink", where, index)
        found[a, b] = (bandwidth * scale, latency_s)
    for (a, b), value in list(found.items()):
        if a is not None and b is not None:
            found.setdefault((b, a), value)
    try:
        return FlowProblem(
            name=data.name,
            num_layers=data.num_layers,
            token_bytes=data.token_bytes,
            activation_bytes=data.activation_bytes,
            nodes=tuple(nodes),
            links=tuple(
                FlowLink(begin=a, end=b, bandwidth_bytes_per_s=bandwidth, latency_s=latency_s)
                for (a, b), (bandwidth, latency_s) in found.items()
            ),
            partial_inference=data.partial_inference,
            batch_tokens=data.batch_tokens,
        )
    except InputError as error:
        raise InputError(error.what, path=where, pointer=error.pointer, fix=error.fix) from error


def _end(value: int | str, outside: str, path: str, index: int) -> int | None:
    if isinstance(value, int):
        return value
    if value == outside:
        return None
    raise InputError(
        f"{value!r} is no end of a link here",
        path=path,
        pointer=f"$.links[{index}]",
        fix="write a node's number, 'source' first or 'sink' second",
    )


def save_flow(problem: FlowProblem, path: str | os.PathLike[str]) -> None:
    """Write a problem so that :func:`load_flow` reads it back."""
    found = {
        (link.begin, link.end): (link.bandwidth_bytes_per_s, link.latency_s)
        for link in problem.links
    }
    links: list[tuple[int | str, int | str, float, float]] = []
    for (a, b), values in found.items():
        if a is None or b is None:
            links.append(("source" if a is None else a, "sink" if b is None else b, *values))
            continue
        back = found.get((b, a))
        if back != values or a < b:  # equal both ways: written once
            links.append((a, b, *values))
        if back is None:
            links.append((b, a, 0.0, 0.0))
    data = FlowFile(
        name=problem.name,
        num_layers=problem.num_layers,
        token_bytes=problem.token_bytes,
        activation_bytes=problem.activation_bytes,
        nodes=tuple(
            FlowFileNode(
                type=n.type,
                max_layers=n.max_layers,
                throughput=n.throughput_tokens_per_s,
                step_s=n.step_s,
            )
            for n in problem.nodes
        ),
        links=tuple(links),
        link_units="bytes",
        partial_inference=problem.partial_inference,
        batch_tokens=problem.batch_tokens,
    )
    files.write_json(path, data)
