"""interrupt.py: a call in a thread ends by its own, by the stop rule, or by Ctrl-C."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator

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


@pytest.fixture
def _heard() -> Iterator[None]:
    """Ctrl-C raises, though whoever started the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heard")
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
