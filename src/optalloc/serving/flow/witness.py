"""What a bound on the flow is proven by; each can be checked without the search that found it."""

from __future__ import annotations

from typing import Literal

import msgspec


class Item(msgspec.Struct, frozen=True):
    """Nodes of kind ``kind`` that hold ``layers`` layers; between ``low`` and ``high`` of them."""

    kind: int
    layers: int
    low: int
    high: int


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """Why no placement with these counts passes the flow: the price of a layer on each item."""

    items: tuple[Item, ...]
    prices: tuple[float, ...]


class LayerTokens(msgspec.Struct, frozen=True, kw_only=True, tag="layer-tokens"):
    """More flow than this needs more layer-tokens a second than all nodes supply."""

    flow_tokens_per_s: float


class Ends(msgspec.Struct, frozen=True, kw_only=True, tag="ends"):
    """More flow than this does not fit through the links with the source, or the sink, and the
    nodes at their other end.
    """

    flow_tokens_per_s: float
    side: Literal["source", "sink"]


class Covers(msgspec.Struct, frozen=True, kw_only=True, tag="covers"):
    """Parts of all counts that together are all of them, each with prices that forbid the flow.

    ``groups`` are the nodes of every kind that items and prices speak of.
    """

    flow_tokens_per_s: float
    groups: tuple[tuple[int, ...], ...]
    parts: tuple[Prices, ...]


class Alone(msgspec.Struct, frozen=True, kw_only=True):
    """What some nodes pass at most without the others."""

    flow_tokens_per_s: float
    witness: LayerTokens | Covers


class Crossings(msgspec.Struct, frozen=True, kw_only=True, tag="crossings"):
    """Prices at which all nodes cannot pay for the layers and for the way between two groups.

    ``region`` is one group; ``groups`` are the nodes of every kind that the prices speak of, each
    inside it or outside. ``alone`` is what the region passes, and what all others pass, alone. The
    share of the region is told apart in ``cells`` and the weights of nodes in ``parts`` of a cell;
    ``sizes`` (in parts) are shares that a node at a crossing passes at most, and ``size_prices``
    those of a layer on such a node in the region, and on one outside.
    """

    flow_tokens_per_s: float
    region: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    alone: tuple[Alone, Alone]
    cells: int
    parts: int
    prices: Prices
    sizes: tuple[int, ...]
    size_prices: tuple[tuple[float, ...], tuple[float, ...]]


class Everything(msgspec.Struct, frozen=True, kw_only=True, tag="everything"):
    """Every placement was tried; ``branches`` says how many partial ones were looked at."""

    flow_tokens_per_s: float
    branches: int


class LatencyTokens(msgspec.Struct, frozen=True, kw_only=True, tag="latency-tokens"):
    """At this price of a second, all nodes supply too few layer-tokens within the limit.

    ``price`` is in layers of the flow a second; see
    :mod:`optalloc.serving.flow.latency.bound`.
    """

    flow_tokens_per_s: float
    price: float


class Begins(msgspec.Struct, frozen=True, kw_only=True):
    """Routes on which the listed nodes begin at layers ``low`` to ``high``, and a price a node."""

    windows: tuple[tuple[int, int, int], ...]
    prices: tuple[float, ...]


class Fastest(msgspec.Struct, frozen=True, kw_only=True, tag="fastest"):
    """Parts of all routes that together are all of them, none below this latency in seconds."""

    latency_s: float
    parts: tuple[Begins, ...]


class Counted(msgspec.Struct, frozen=True, kw_only=True, tag="counted"):
    """No route takes less, with nodes told apart by class alone and links at their least."""

    latency_s: float
    classes: tuple[tuple[int, ...], ...]


FlowWitness = LayerTokens | Ends | Covers | Crossings | Everything | LatencyTokens
Witness = FlowWitness | Fastest | Counted
