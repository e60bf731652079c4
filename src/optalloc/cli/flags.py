"""said_by_flags: what the library says of an argument, said of the flag that gave it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from optalloc.errors import InputError


@contextlib.contextmanager
def said_by_flags(flags: Mapping[str, str]) -> Iterator[None]:
    """Name the flag in errors of the block whose place is an argument: ``{"batch": "--batch"}``.

    Raises
    ------
    InputError
        Those of the block.
    """
    try:
        yield
    except InputError as error:
        if error.path not in flags:
            raise
        where = flags[error.path]
        pointer = "" if where.startswith("--") and error.pointer.startswith("$") else error.pointer
        raise type(error)(error.what, path=where, pointer=pointer, fix=error.fix) from error
