"""A workload from a file with flags put over it, or from flags alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from optalloc.errors import InputError
from optalloc.workload import Serving, Training, load_workload

WorkloadT = TypeVar("WorkloadT", Training, Serving)
Fields = dict[str, object]


def workload_of(
    arguments: argparse.Namespace,
    kind: type[WorkloadT],
    given: Fields,
    flags: Mapping[str, str],
    *,
    needed: tuple[str, str],
    merged: Callable[[Fields, Fields], Fields] = lambda fields, given: fields | given,
) -> WorkloadT:
    """The workload of ``--workload`` with the fields ``given`` put over it, or of these alone.

    ``flags`` names the flag of each field, ``needed`` the fields without which there is none.

    Raises
    ------
    InputError
        If the file is of another kind, a needed field is missing, or a value makes no sense.
    """
    wanted = str(kind.__struct_config__.tag)
    if arguments.workload is not None:
        file = load_workload(arguments.workload)
        if not isinstance(file, kind):
            raise InputError(
                f"the workload is one of {type(file).__struct_config__.tag}",
                path=str(arguments.workload),
                pointer="$.kind",
                fix=f'give a workload of kind = "{wanted}"',
            )
        return _checked(merged(msgspec.structs.asdict(file), given), kind, flags)
    missing = [flags[name] for name in needed if name not in given]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            path="the command line",
            fix=f"add {' and '.join(f'{flag} N' for flag in missing)}, or --workload FILE",
        )
    return _checked(given, kind, flags)


def _checked(fields: Fields, kind: type[WorkloadT], flags: Mapping[str, str]) -> WorkloadT:
    """The workload; a value that makes no sense is blamed on its flag."""
    try:
        return msgspec.convert(fields | {"kind": kind.__struct_config__.tag}, kind)
    except InputError as error:
        flag = flags.get(error.pointer.removeprefix("$."), "the command line")
        raise InputError(error.what, path=flag, fix=error.fix) from error
