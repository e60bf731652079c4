"""What is wrong with the values of a file: msgspec's complaint, its place, and how to fix it."""

from __future__ import annotations

import re
import types
import typing
from typing import Any

import msgspec

from optalloc.errors import FormatVersionError, InputError, nearest


def explained(error: msgspec.ValidationError, data: Any, type_: type[Any], path: str) -> InputError:
    """The error of plain values that are no ``type_``."""
    what, _, pointer = str(error).partition(" - at ")
    pointer = pointer.strip("`") or "$"
    named = _named(pointer, data, type_)
    fix = _usual_fix(type_)
    if pointer == "$.format":
        return _format_error(what, type_, path)
    unknown = re.search(r"unknown field `([^`]+)`", what)
    if unknown:
        word = unknown.group(1)
        known = _fields_at(type_, pointer)
        near = nearest(word, known, count=1)
        what = f"unknown key {word!r}"
        fix = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(sorted(known))}"
    wrong = re.search(r"Invalid enum value '?([^']*)'?", what)
    if wrong and (known := _words_at(type_, pointer)):
        near = nearest(wrong.group(1), known, count=1)
        fix = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(map(repr, known))}"
    missing = re.search(r"missing required field `([^`]+)`", what)
    if missing:
        what, fix = f"the key {missing.group(1)!r} is missing", f"add {missing.group(1)!r}"
    return InputError(what, path=path, pointer=named, fix=fix)


def _named(pointer: str, data: Any, type_: Any) -> str:
    """The pointer with the key of each table by name, where msgspec writes ``[...]``."""
    first, *others = pointer.split("[...]")
    named, data, types_ = first, _value_at(data, first), _types_at(type_, first)
    for part in others:
        kinds = [item_of(kind) for kind in _members(types_) if typing.get_origin(kind) is dict]
        wrong = [key for key, value in data.items() if kinds and not _is(value, kinds[0])]
        if not wrong:
            return pointer
        named = f"{named}.{wrong[0]}{part}"
        data, types_ = _value_at(data[wrong[0]], part), _types_at(kinds[0], part)
    return named


def _value_at(data: Any, pointer: str) -> Any:
    for key, index in re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", pointer):
        data = data.get(key) if key else data[int(index)]
    return data


def _members(types_: list[Any]) -> list[Any]:
    """The types, and in place of a union its members."""
    unions = (typing.Union, types.UnionType)
    return [
        a for t in types_ for a in (typing.get_args(t) if typing.get_origin(t) in unions else (t,))
    ]


def _is(value: Any, type_: Any) -> bool:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError:
        return False
    return True


def _format_error(what: str, type_: type[Any], path: str) -> InputError:
    """The error of a file whose first key names a format that this release does not read."""
    known = _formats(type_)
    return FormatVersionError(
        f"the format is not one this release reads ({what})",
        path=path,
        pointer="$.format",
        fix=f"write format = {' or '.join(map(repr, known))}",
    )


def _formats(type_: type[Any]) -> list[str]:
    """What may stand at the key ``format``, such as ``optalloc.cluster/1``."""
    return [
        str(value)
        for struct in structs_of(type_)
        for field in msgspec.structs.fields(struct)
        if field.encode_name == "format"
        for value in typing.get_args(field.type)
    ]


def _usual_fix(type_: type[Any]) -> str:
    """Where a format says which values it takes."""
    names = [name.partition(".")[2].partition("/")[0] for name in _formats(type_)]
    if not names:
        return "see the reference of this file format"
    return f"'optalloc schema {names[0]}' prints what may stand there"


def _fields_at(type_: Any, pointer: str) -> list[str]:
    """Field names of the structs that may stand at a JSON pointer such as ``$.nodes[0].link``."""
    here = _types_at(type_, pointer)
    return [f.encode_name for t in here for s in structs_of(t) for f in msgspec.structs.fields(s)]


def _words_at(type_: Any, pointer: str) -> list[str]:
    """The words that may stand at a JSON pointer."""
    here = _types_at(type_, pointer)
    inner = [a for t in here for a in (typing.get_args(t) or (t,))]
    words = [a for t in inner for a in (typing.get_args(t) or (t,))]
    return [word for word in words if isinstance(word, str)]


def _types_at(type_: Any, pointer: str) -> list[Any]:
    here = [type_]
    for part in re.findall(r"\.([^.\[\]]+)|(\[)[^\]]*\]", pointer):
        here = [n for t in _members(here) for n in _step(t, part[0])]
    return here


def _step(type_: Any, key: str) -> list[Any]:
    if key:
        named = [
            f.type
            for s in structs_of(type_)
            for f in msgspec.structs.fields(s)
            if f.encode_name == key
        ]
        return named or list(typing.get_args(type_)[1:])
    return [a for a in typing.get_args(type_) if a is not Ellipsis]


def structs_of(type_: Any) -> list[Any]:
    """The structs that a value of this type may be."""
    return [t for t in _members([type_]) if isinstance(t, type) and issubclass(t, msgspec.Struct)]


def item_of(type_: Any) -> Any:
    """What a list or an object of this type holds; None if it is neither."""
    inner = [a for a in typing.get_args(type_) if a is not Ellipsis]
    return inner[-1] if inner else None
