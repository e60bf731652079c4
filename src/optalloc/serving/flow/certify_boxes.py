"""Whether boxes of whole numbers together hold every point of a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def boxes_fill(
    space: dict[tuple[int, int], tuple[int, int]],
    boxes: Sequence[Mapping[tuple[int, int], tuple[int, int]]],
) -> bool:
    """Whether the boxes together hold every whole point of the space."""
    waiting = [(space, list(boxes))]
    while waiting:
        here, near = waiting.pop()
        cut = None
        whole = False
        meeting = []
        for box in near:
            sides = [(name, here[name], box.get(name, here[name])) for name in here]
            if any(high < low2 or high2 < low for _, (low, high), (low2, high2) in sides):
                continue
            meeting.append(box)
            inner = [
                (name, low2 - 1 if low2 > low else high2)
                for name, (low, high), (low2, high2) in sides
                if low2 > low or high2 < high
            ]
            if not inner:
                whole = True
                break
            cut = cut or inner[0]
        if whole:
            continue
        if cut is None:
            return False
        name, at = cut
        low, high = here[name]
        waiting.append(({**here, name: (low, at)}, meeting))
        waiting.append(({**here, name: (at + 1, high)}, meeting))
    return True
