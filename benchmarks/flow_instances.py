"""``python -m benchmarks flow-instances``: random clusters to place layers on, written as files.

A kind of node passes ``S (1 - d (k - 1) / (K - 1)) / k`` tokens/s with ``k`` of at most ``K``
layers: what published tables of A100, L4 and T4 with a model of 80 layers look like, where ``d``
is about a half; or kinds and model are those of a file (``--like``). Regions hold about equally
many nodes; links inside them are wide, between them narrow, each pair with a bandwidth of its own,
and equal both ways.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from optalloc.serving.flow.instance import load_flow, save_flow
from optalloc.serving.flow.problem import FlowLink, FlowNode, FlowProblem

#: Speed with one layer (tokens/s) and most layers of the published kinds.
_PUBLISHED = {"a100": (23_834.0, 12), "l4": (7_558.0, 7), "t4": (5_709.0, 4)}
_WIDE = (1.1e9, 1.4e9)  # bytes/s inside a region
_NARROW = (1.0e7, 1.5e7)  # bytes/s between regions, and of source and sink


def random_cluster(
    seed: int,
    num_nodes: int,
    num_regions: int = 1,
    *,
    num_kinds: int = 3,
    num_layers: int = 80,
    slower: float = 1.0,
    every_pair: bool = False,
    like: FlowProblem | None = None,
) -> FlowProblem:
    """A cluster of ``num_kinds`` kinds of nodes in ``num_regions`` regions.

    Links between regions are ``slower`` times as slow as 10 to 15 MB/s; with ``every_pair`` each
    pair of nodes, whatever their regions, has a bandwidth between those and the wide ones. Up to
    three kinds are the published ones; 0 kinds give every node a table of its own. The kinds, the
    number of layers and the bytes are those of ``like`` where it is given.
    """
    draw = random.Random(f"{seed} {num_nodes} {num_regions} {num_kinds} {num_layers}")
    if like is None:
        nodes = _nodes(draw, num_nodes, num_kinds)
    else:
        kinds = list(
            {(node.type, node.throughput_tokens_per_s): node for node in like.nodes}.values()
        )
        nodes = [draw.choice(kinds) for _ in range(num_nodes)]
    region = [index % num_regions for index in range(num_nodes)]
    links = []
    for a in range(num_nodes):
        narrow = draw.uniform(*_NARROW)
        links += [
            FlowLink(begin=None, end=a, bandwidth_bytes_per_s=narrow, latency_s=0.01),
            FlowLink(begin=a, end=None, bandwidth_bytes_per_s=narrow, latency_s=0.01),
        ]
        for b in range(a):
            wide, narrow = draw.uniform(*_WIDE), draw.uniform(*_NARROW) / slower
            rate, delay = (wide, 0.001) if region[a] == region[b] else (narrow, 0.05)
            if every_pair:
                rate = narrow * (wide / narrow) ** (0.7 * draw.random() ** 2)
            for ends in ((a, b), (b, a)):
                links.append(
                    FlowLink(
                        begin=ends[0], end=ends[1], bandwidth_bytes_per_s=rate, latency_s=delay
                    )
                )
    return FlowProblem(
        name=f"cluster{num_nodes}",
        num_layers=num_layers if like is None else like.num_layers,
        token_bytes=2 if like is None else like.token_bytes,
        activation_bytes=16_384 if like is None else like.activation_bytes,
        nodes=tuple(nodes),
        links=tuple(links),
    )


def _nodes(draw: random.Random, num_nodes: int, num_kinds: int) -> list[FlowNode]:
    kinds = list(_PUBLISHED.items())[:num_kinds]
    while len(kinds) < (num_kinds or num_nodes):
        kinds.append((f"k{len(kinds)}", (4_000.0 * 7.0 ** draw.random(), draw.randint(3, 12))))
    nodes = []
    for index in range(num_nodes):
        name, (speed, most) = draw.choice(kinds) if num_kinds else kinds[index]
        loss = 0.5 if num_kinds else draw.uniform(0.3, 0.6)
        table = tuple(
            round(speed * (1.0 - loss * (k - 1) / max(1, most - 1)) / k, 3)
            for k in range(1, most + 1)
        )
        nodes.append(FlowNode(type=name, throughput_tokens_per_s=table))
    return nodes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the study."""
    parser.add_argument("--nodes", type=int, nargs="+", default=[40], metavar="N")
    parser.add_argument("--regions", type=int, nargs="+", default=[2], metavar="R")
    parser.add_argument(
        "--kinds", type=int, default=3, metavar="K", help="of nodes; 0: each its own (3)"
    )
    parser.add_argument(
        "--slower", type=float, default=1.0, metavar="X", help="links between regions (1)"
    )
    parser.add_argument("--every-pair", action="store_true", help="a bandwidth for every pair")
    parser.add_argument(
        "--like", type=Path, metavar="FILE", help="kinds of nodes and model of this instance"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="K")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="files go here")


def run(arguments: argparse.Namespace) -> int:
    """Write an instance for every number of nodes and regions and every seed."""
    like = None if arguments.like is None else load_flow(arguments.like)
    for nodes in arguments.nodes:
        for regions in arguments.regions:
            for seed in arguments.seeds:
                problem = random_cluster(
                    seed,
                    nodes,
                    regions,
                    num_kinds=arguments.kinds,
                    slower=arguments.slower,
                    every_pair=arguments.every_pair,
                    like=like,
                )
                marks = f"_x{arguments.slower:g}" if arguments.slower != 1.0 else ""
                marks += "_pairs" if arguments.every_pair else ""
                marks += f"_k{arguments.kinds}" if arguments.kinds != 3 else ""
                marks += f"_{like.name}" if like is not None else ""
                path = arguments.out / f"g{nodes}_{regions}_s{seed}{marks}.json"
                save_flow(problem, path)
                print(path)
    return 0
