"""A native call in a thread of its own, so that a stop rule and Ctrl-C can end it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")


def in_thread(
    call: Callable[[], T],
    cancel: npt.NDArray[np.signedinteger[Any]],
    *,
    should_stop: Callable[[], bool] | None = None,
    poll_s: float = 0.05,
) -> T:
    """What the call returns or raises; on a stop or Ctrl-C ``cancel[0]`` is 1: it should end soon.

    Parameters
    ----------
    call : callable
        Releases the GIL while it works, and looks at ``cancel`` now and then.
    cancel : ndarray of int, shape (1,)
    should_stop : callable, optional
        Asked every ``poll_s`` seconds.
    """
    done = threading.Event()  # an interrupted Thread.join takes the thread for ended
    answers: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(call())
        except BaseException as failure:  # noqa: BLE001 - raised again by the caller
            failures.append(failure)
        finally:
            done.set()

    try:
        threading.Thread(target=work).start()
    except KeyboardInterrupt:
        cancel[0] = 1  # whether it has begun is not known
        raise
    while not done.is_set():
        try:
            if not done.wait(poll_s) and should_stop is not None and should_stop():
                cancel[0] = 1
        except KeyboardInterrupt:
            cancel[0] = 1
    if failures:
        raise failures[0]
    return answers[0]
