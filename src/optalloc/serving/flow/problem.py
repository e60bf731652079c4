"""The formal problem: contiguous layers on unequal nodes so that most tokens flow.

Layers ``0 .. L-1``; node ``i`` of type ``t`` passes at most ``T_t(k)`` tokens/s while it holds
``k`` layers, ``1 <= k <= K_t``. A placement gives every used node one range ``[s_i, e_i)``. Tokens
run from the source over nodes to the sink:

    source -> j    if s_j = 0                      capacity bandwidth / token bytes
    i -> sink      if e_i = L                      capacity bandwidth / token bytes
    i -> j         if e_i = s_j                    capacity bandwidth / activation bytes
                   or, with partial inference, if s_j <= e_i < e_j (j runs layers e_i .. e_j - 1)

and the value is the largest flow F [tokens/s] under those capacities and ``T``. No cycle arises:
ends grow along every link.

The latency of a route [s] is that of one token: on every link its latency and its bytes over the
bandwidth, on every node the step through the layers it runs there,

    sum over links of (latency + bytes / bandwidth) + sum over nodes of step_i(k) (e - x) / k

for a node that holds ``k`` layers and runs those from ``x`` to its end ``e`` (all but with partial
inference).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from optalloc.errors import InputError

#: What a placement is: node index -> (first layer, end layer), the end exclusive.
Ranges = Mapping[int, tuple[int, int]]


class FlowNode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine and what it passes.

    Parameters
    ----------
    type : str
        Name of the kind of machine; nodes of one name may differ in their tables.
    throughput_tokens_per_s : tuple of float
        Entry ``k - 1`` is ``T(k)``, tokens/s while the node holds ``k`` layers; its length is the
        most layers that fit. ``T`` need not fall with ``k``.
    step_s : tuple of float
        Entry ``k - 1`` is what a token waits for the node's step through ``k`` layers, seconds, at
        the batch the node then uses; empty: ``batch_tokens / T(k)`` of the problem.
    """

    type: str
    throughput_tokens_per_s: tuple[float, ...]
    step_s: tuple[float, ...] = ()

    @property
    def max_layers(self) -> int:
        """The most layers the node can hold."""
        return len(self.throughput_tokens_per_s)


class FlowLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A directed link; ``begin`` None is the source, ``end`` None the sink."""

    begin: int | None
    end: int | None
    bandwidth_bytes_per_s: float
    latency_s: float = 0.0


class FlowProblem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nodes, links and the model's size.

    Parameters
    ----------
    name : str
        A label for reports.
    num_layers : int
        Layers of the model.
    token_bytes, activation_bytes : int
        Bytes of one token on links of source and sink, and of its activation between nodes.
    nodes : tuple of FlowNode
    links : tuple of FlowLink
        Every direction apart; a pair that is not listed is not connected.
    partial_inference : bool
        Whether a node may receive tokens in the middle of its range.
    batch_tokens : float
        Tokens a node takes through its layers at once, where its ``step_s`` is not given.
    """

    name: str = ""
    num_layers: int
    token_bytes: int
    activation_bytes: int
    nodes: tuple[FlowNode, ...]
    links: tuple[FlowLink, ...]
    partial_inference: bool = False
    batch_tokens: float = 1.0

    def __post_init__(self) -> None:
        for name in ("num_layers", "token_bytes", "activation_bytes"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"{name} is {value}", pointer=f"$.{name}", fix="give at least 1")
        if not 0.0 < self.batch_tokens < math.inf:
            raise InputError(
                f"batch_tokens is {self.batch_tokens}",
                pointer="$.batch_tokens",
                fix="give the tokens a node takes at once, 1 or more",
            )
        for index, node in enumerate(self.nodes):
            table = node.throughput_tokens_per_s
            if not all(0.0 <= value < math.inf for value in table):
                raise InputError(
                    "a throughput is negative or not finite",
                    pointer=f"$.nodes[{index}].throughput",
                    fix="give tokens/s of at least 0 for every number of layers",
                )
            if node.step_s and (
                len(node.step_s) != node.max_layers
                or not all(0.0 <= value < math.inf for value in node.step_s)
            ):
                raise InputError(
                    "steps are not one time for each number of layers",
                    pointer=f"$.nodes[{index}].step_s",
                    fix="give as many seconds as throughputs, or none",
                )
        for index, link in enumerate(self.links):
            ends = [end for end in (link.begin, link.end) if end is not None]
            if not ends or any(not 0 <= end < len(self.nodes) for end in ends):
                raise InputError(
                    "a link names a node that is not there",
                    pointer=f"$.links[{index}]",
                    fix=f"number nodes from 0 to {len(self.nodes) - 1}",
                )
            if not link.bandwidth_bytes_per_s >= 0.0 or not link.latency_s >= 0.0:
                raise InputError(
                    "a bandwidth or latency is negative or not a number",
                    pointer=f"$.links[{index}]",
                    fix="give bytes/s and seconds of at least 0",
                )

    def capacity_tokens_per_s(self, link: FlowLink) -> float:
        """Tokens/s that fit through a link."""
        inner = link.begin is not None and link.end is not None
        return link.bandwidth_bytes_per_s / (self.activation_bytes if inner else self.token_bytes)

    def link_s(self, link: FlowLink) -> float:
        """Seconds a token is on a link, latency and transfer; infinite if nothing passes."""
        capacity = self.capacity_tokens_per_s(link)
        return link.latency_s + 1.0 / capacity if capacity > 0.0 else math.inf

    def step_s(self, node: int, layers: int) -> float:
        """Seconds of a step of a node that holds so many layers; infinite if it passes nothing."""
        rate = self.nodes[node].throughput_tokens_per_s[layers - 1]
        if rate <= 0.0:
            return math.inf
        given = self.nodes[node].step_s
        return given[layers - 1] if given else self.batch_tokens / rate


def check_ranges(problem: FlowProblem, placement: Ranges) -> None:
    """Refuse ranges that no node could hold; raises InputError naming the node."""
    for index, (first, end) in placement.items():
        if not 0 <= index < len(problem.nodes):
            raise InputError(f"node {index} is not there", pointer="$.placement")
        most = problem.nodes[index].max_layers
        if not (0 <= first < end <= problem.num_layers and end - first <= most):
            raise InputError(
                f"node {index} cannot hold layers {first} to {end}",
                pointer=f"$.placement.{index}",
                fix=f"hold 1 to {most} layers between 0 and {problem.num_layers}",
            )
