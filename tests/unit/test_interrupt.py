"""interrupt.py: a call in a thread ends by its own, by the stop rule, or by Ctrl-C."""

from __future__ import annotations

import _thread
import threading

import numpy as np
import pytest

from optalloc.interrupt import in_thread


def test_the_answer_is_that_of_the_call() -> None:
    """Nothing was cancelled."""
    cancel = np.zeros(1, np.int32)
    assert in_thread(lambda: 7, cancel) == 7
    assert cancel[0] == 0


def test_what_the_call_raises_is_raised() -> None:
    """In the thread of the caller."""
    with pytest.raises(ZeroDivisionError):
        in_thread(lambda: 1 // 0, np.zeros(1, np.int32))


def test_a_stop_and_ctrl_c_cancel_the_call_and_wait_for_its_answer() -> None:
    """The call ends some time after it was told to, and its answer is not lost."""
    for interrupt in (False, True):
        cancel, told, asked = np.zeros(1, np.int32), threading.Event(), [0]

        def call(
            cancel: np.ndarray[tuple[int], np.dtype[np.int32]] = cancel,
            told: threading.Event = told,
            asked: list[int] = asked,
            interrupt: bool = interrupt,
        ) -> str:
            for _ in range(10_000):
                if asked[0] and interrupt:
                    _thread.interrupt_main()
                    interrupt = False
                if cancel[0]:
                    break
                told.wait(0.001)
            told.wait(0.01)
            return "best so far"

        def should_stop(asked: list[int] = asked, interrupt: bool = interrupt) -> bool:
            asked[0] += 1
            return not interrupt

        found = in_thread(call, cancel, should_stop=should_stop, poll_s=0.001)
        assert found == "best so far"
        assert cancel[0] == 1
