"""What proves that no fleet is cheaper: a tree over the counts with prices at every node.

Prices ``pi_sk >= 0`` of a replica's whole time, by scenario ``s`` and kind ``k`` (offers of equal
throughputs and interruption are one kind), values ``v_sj >= 0`` of serving all of a bucket, and
``nu_P >= 0`` of a shared device, bound the price of every fleet whose counts lie in a box:

    w p y  >=  sum_s (sum_j v_sj - sum_k E_sk) - sum_P nu_P C_P
               + sum_g min over y_g of [ (w p_g + sum_P nu_P n_g) y_g - sum_s pi_sk(g) c_sg(y_g) ]

with ``c_sg`` the time that is left of offer ``g`` in scenario ``s`` (where one of several offers
that serve alike fails, it goes off them together), and ``E_sk`` the most that a
whole number of replicas of a kind, of time ``u`` each, earn from the values beyond their price:

    E_sk = max over whole n and 0 <= x <= 1 with sum_j load_jk x_j <= u n
           of sum_j v_sj x_j - pi_sk u n

What is served is worth ``sum_j v_sj``, and no kind serves more of that worth than its time costs
plus ``E``. Values of at most ``pi load`` earn nothing (``E = 0``); larger ones use that
replicas are whole. With ``w = 1`` the right side is a bound; with ``w = 0`` a positive right side
shows that the box holds no fleet that serves.
"""

from __future__ import annotations

import msgspec


class ScenarioPrices(msgspec.Struct, frozen=True):
    """Prices of one scenario by kind, and values of the buckets that have requests, in order.

    Kinds are numbered in the order of their first offer. Without values each bucket is worth what
    it costs where it is cheapest.
    """

    scenario: int
    prices: tuple[float, ...]
    values: tuple[float, ...] = ()


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """Prices that prove something of a box; ``weight`` is that of the fleet's price, 1 or 0."""

    weight: int
    prices: tuple[ScenarioPrices, ...]
    limits: tuple[float, ...] = ()


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the tree over boxes of counts.

    ``proof`` narrows its box: counts at which the bound already exceeds the claim are left out. A
    leaf's proof leaves none. Otherwise the box is cut between ``at`` and ``at + 1`` replicas of
    ``offer`` into the nodes ``below`` and ``above``; from the number of offers on, ``offer`` stands
    for all offers of a kind together.
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
