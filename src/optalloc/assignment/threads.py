"""How many threads a method may use."""

from __future__ import annotations

from optalloc.errors import InputError

_MOST = 1024


def check_threads(threads: int) -> None:
    """Raise InputError unless ``threads`` is from 1 to 1024."""
    if not 1 <= threads <= _MOST:
        raise InputError(
            f"{threads} threads", path="threads", fix=f"give a number from 1 to {_MOST}"
        )
