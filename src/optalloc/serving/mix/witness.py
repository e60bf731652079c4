"""What proves that no fleet is cheaper: a tree over the counts with prices at every node.

Prices ``pi_sk >= 0`` of a replica's whole time, by scenario ``s`` and kind ``k`` (offers of equal
throughputs are one kind), and ``nu_P >= 0`` of a shared device, bound the price of every fleet
whose counts lie in a box (weak duality of the problem's linear programme, per scenario):

    w p y  >=  sum_s sum_j d_j min_k pi_sk / R_kj  -  sum_P nu_P C_P
               + sum_g min over y_g of [ (w p_g + sum_P nu_P n_g) y_g - sum_s pi_sk(g) c_sg(y_g) ]

with ``c_sg`` the time that is left of offer ``g`` in scenario ``s``. With ``w = 1`` the right side
is a bound; with ``w = 0`` a positive right side shows that the box holds no fleet that serves.
"""

from __future__ import annotations

import msgspec


class ScenarioPrices(msgspec.Struct, frozen=True):
    """Prices of one scenario by kind, and values of the buckets that have requests, in order.

    Kinds are numbered in the order of their first offer.
    """

    scenario: int
    prices: tuple[float, ...]
    values: tuple[float, ...]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """Prices that prove something of a box; ``weight`` is that of the fleet's price, 1 or 0."""

    weight: int
    prices: tuple[ScenarioPrices, ...]
    limits: tuple[float, ...] = ()


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the tree over boxes of counts.

    ``proof`` narrows its box: counts at which the bound already exceeds the claim are left out. A
    leaf's proof leaves none. Otherwise the box is cut between ``at`` and ``at + 1`` replicas of
    ``offer`` into the nodes ``below`` and ``above``.
    """

    proof: int | None
    offer: int | None = None
    at: int = 0
    below: int = 0
    above: int = 0


class FleetWitness(msgspec.Struct, frozen=True, kw_only=True):
    """The tree, its root first, and the proofs that its nodes name."""

    nodes: tuple[Node, ...]
    proofs: tuple[Proof, ...]
