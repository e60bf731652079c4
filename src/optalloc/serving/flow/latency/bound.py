"""An upper bound on the flow within a latency: layer-tokens, and seconds for them.

Every token runs ``u`` layers on a node that holds ``k >= u``, and waits there at least
``u d_ik`` seconds, ``d_ik = (step_i(k) + the least link into i) / k``; what is left is a link to
the sink. So at flow F, with ``y_ik`` the layers of a token that run on node ``i`` while it holds
``k`` (a mean over tokens):

    sum y_ik = L,    sum d_ik y_ik <= D - sink,
    y_ik <= k m_ik min(T_i(k), F) / F,    sum_k m_ik <= 1

and for any price ``q >= 0`` of a second, with ``w_ik = min(T_i(k), F) / F``,

    L - q (D - sink) <= sum_i max_k max(0, 1 - q d_ik) k w_ik

else F is impossible. The right side falls with F, so a flow that is refuted refutes all larger
ones. Links count by their least latency and never bind otherwise.
"""

from __future__ import annotations

import numpy as np

from optalloc.serving.flow.covers import ROUND
from optalloc.serving.flow.latency.times import Floats, Times
from optalloc.serving.flow.witness import LatencyTokens

_HALVINGS = 40
_PRICES = 60


def bound_by_latency(
    times: Times, throughput: Floats, limit_s: float, ceiling: float
) -> LatencyTokens | None:
    """The least flow found that the limit forbids, below ``ceiling`` (tokens/s); None: none."""
    programme = _Programme(times, throughput, limit_s)
    if (price := programme.price(ceiling)) is None:
        return None
    low, high = 0.0, ceiling
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        found = programme.price(middle)
        if found is None:
            low = middle
        else:
            high, price = middle, found
    return LatencyTokens(flow_tokens_per_s=high, price=price)


class _Programme:
    def __init__(self, times: Times, throughput: Floats, limit_s: float) -> None:
        width = times.step.shape[1]
        self.num_layers = times.problem.num_layers
        self.layers = np.arange(1.0, width + 1.0)
        self.rate = np.maximum(throughput[:, :width], 0.0)
        enter = np.minimum(times.source, times.links.min(axis=0, initial=np.inf))
        self.wait = (times.step + enter[:, None]) / self.layers
        self.left_s = limit_s - float(times.sink.min(initial=np.inf))

    def price(self, flow: float) -> float | None:
        """A price that refutes the flow; the slack is convex in it, so it is found by sections."""
        tokens = self.layers * np.minimum(self.rate, flow) / flow
        if self.left_s <= 0.0:
            return 0.0 if self.slack(0.0, tokens) < 0.0 else None
        low, high = 0.0, 4.0 * self.num_layers / self.left_s
        finite = self.wait[np.isfinite(self.wait)]
        if len(finite) and finite.min() > 0.0:
            high = 1.0 / float(finite.min())
        best, at = self.slack(0.0, tokens), 0.0
        step = (3.0 - 5.0**0.5) / 2.0
        a, b = low + step * (high - low), high - step * (high - low)
        left, right = self.slack(a, tokens), self.slack(b, tokens)
        for _ in range(_PRICES):
            for price, value in ((a, left), (b, right)):
                if value < best:
                    best, at = value, price
            if best < -ROUND * self.num_layers:
                return float(at)
            if left < right:
                high, b, right = b, a, left
                a = low + step * (high - low)
                left = self.slack(a, tokens)
            else:
                low, a, left = a, b, right
                b = high - step * (high - low)
                right = self.slack(b, tokens)
        return None

    def slack(self, price: float, tokens: Floats) -> float:
        """Supply beyond what is needed, in layers of the flow; below 0: impossible."""
        with np.errstate(invalid="ignore"):
            worth = np.where(np.isfinite(self.wait), 1.0 - price * self.wait, 0.0)
        supply = (np.maximum(0.0, worth) * tokens).max(axis=1, initial=0.0)
        return float(supply.sum()) - self.num_layers + price * self.left_s
