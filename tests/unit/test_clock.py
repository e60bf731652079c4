"""clock.py: the order of events."""

from __future__ import annotations

from optalloc.clock import EventQueue


def test_events_come_in_order_of_time_then_of_arrival() -> None:
    """Put in as c@2, a@1, b@1: a and b are equal in time and keep their order."""
    queue: EventQueue[str] = EventQueue()
    for time_s, name in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        queue.put(time_s, name)
    assert [queue.next() for _ in range(3)] == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
    assert not queue
