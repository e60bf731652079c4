"""Read TOML and JSON into typed values, write canonical JSON, take digests, make schemas."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from optalloc.errors import FormatVersionError, InputError, nearest
from optalloc.units import dimension_of, parse_quantity

T = TypeVar("T")

#: Endings of keys whose values are whole numbers: "79.6 GiB" is rounded to a byte.
_WHOLE = ("_bytes", "_flops", "_tokens")


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file, or one clear error."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot read the file: {error.strerror or error}",
            path=str(path),
            fix="check the path and its permissions",
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            "the file is not UTF-8 text", path=str(path), fix="save it as UTF-8 text"
        ) from error


def parse_json(text: str, *, path: str) -> Any:
    """Plain values of a JSON text; a syntax error names its line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"not valid JSON: {error.msg}",
            path=path,
            pointer=f"line {error.lineno}, column {error.colno}",
            fix="correct the syntax there; the file may be cut off",
        ) from error
    except RecursionError as error:
        raise InputError(
            "the JSON is nested too deeply",
            path=path,
            fix="give a file of the format this command reads",
        ) from error


def read_json(path: str | os.PathLike[str], type_: type[T]) -> T:
    """Read a JSON file into ``type_``; raises InputError with the JSON pointer."""
    return typed(parse_json(read_text(path), path=str(path)), type_, path=str(path))


def read_toml(path: str | os.PathLike[str], type_: type[T]) -> T:
    """Read a TOML file into ``type_``; quantities may be strings with units."""
    return typed(read_table(path), type_, path=str(path))


def read_table(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The plain values of a TOML file, for :func:`typed`."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"not valid TOML: {error}", path=str(path), fix="correct the syntax there"
        ) from error


def typed(data: Any, type_: type[T], *, path: str) -> T:
    """Convert plain values into ``type_``, parsing every quantity by the ending of its key."""
    data = _with_quantities(data, path, "$", "")
    try:
        return msgspec.convert(data, type_)
    except msgspec.ValidationError as error:
        raise _input_error(str(error), type_, path) from error
    except InputError as error:  # a value's own check knows the place inside the file, not the file
        if error.path:
            raise
        raise InputError(error.what, path=path, pointer=error.pointer, fix=error.fix) from error


def _with_quantities(data: Any, path: str, pointer: str, key: str) -> Any:
    if isinstance(data, dict):
        return {k: _with_quantities(v, path, f"{pointer}.{k}", k) for k, v in data.items()}
    if isinstance(data, list):
        return [_with_quantities(v, path, f"{pointer}[{i}]", key) for i, v in enumerate(data)]
    if isinstance(data, str | float) and (ending := dimension_of(key)) is not None:
        value = (
            parse_quantity(data, ending, path=path, pointer=pointer)
            if isinstance(data, str)
            else data
        )
        return round(value) if ending in _WHOLE or value.is_integer() else value
    return data


def _input_error(message: str, type_: type[Any], path: str) -> InputError:
    what, _, pointer = message.partition(" - at ")
    pointer = pointer.strip("`") or "$"
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
    return InputError(what, path=path, pointer=pointer, fix=fix)


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
        for struct in _structs(type_)
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
    return [f.encode_name for t in here for s in _structs(t) for f in msgspec.structs.fields(s)]


def _words_at(type_: Any, pointer: str) -> list[str]:
    """The words that may stand at a JSON pointer."""
    here = _types_at(type_, pointer)
    inner = [a for t in here for a in (typing.get_args(t) or (t,))]
    words = [a for t in inner for a in (typing.get_args(t) or (t,))]
    return [word for word in words if isinstance(word, str)]


def _types_at(type_: Any, pointer: str) -> list[Any]:
    here = [type_]
    for part in re.findall(r"\.([^.\[\]]+)|(\[)[^\]]*\]", pointer):
        here = [n for t in here for n in _step(t, part[0])]
    return here


def _step(type_: Any, key: str) -> list[Any]:
    if key:
        named = [
            f.type
            for s in _structs(type_)
            for f in msgspec.structs.fields(s)
            if f.encode_name == key
        ]
        return named or list(typing.get_args(type_)[1:])
    return [a for a in typing.get_args(type_) if a is not Ellipsis]


def _structs(type_: Any) -> list[Any]:
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return [type_]
    if typing.get_origin(type_) in (typing.Union, types.UnionType):
        return [s for a in typing.get_args(type_) for s in _structs(a)]
    return []


def known_only(data: Any, type_: Any) -> Any:
    """``data`` less the keys that the structs of ``type_`` have not, at any depth.

    That is how a file of a newer minor version is read: such a version only adds keys.
    """
    if isinstance(data, dict):
        structs = [s for s in _structs(type_) if _has_tag(s, data)]
        if not structs:
            return {key: known_only(value, _item(type_)) for key, value in data.items()}
        types_ = {f.encode_name: f.type for s in structs for f in msgspec.structs.fields(s)}
        tags = {s.__struct_config__.tag_field for s in structs}
        return {
            key: known_only(value, types_.get(key))
            for key, value in data.items()
            if key in types_ or key in tags
        }
    if isinstance(data, list):
        return [known_only(value, _item(type_)) for value in data]
    return data


def _item(type_: Any) -> Any:
    """What a list or an object of this type holds; None if it is neither."""
    inner = [a for a in typing.get_args(type_) if a is not Ellipsis]
    return inner[-1] if inner else None


def _has_tag(struct: Any, data: dict[str, Any]) -> bool:
    config = struct.__struct_config__
    return config.tag_field is None or data.get(config.tag_field) == config.tag


def canonical_json(value: Any) -> str:
    """Sorted keys, one element a line, shortest round-trip floats, final newline."""
    return _lines(msgspec.to_builtins(value, str_keys=True), "\n") + "\n"


def _lines(value: Any, line: str) -> str:
    """What ``json.dumps`` writes with one space of indentation and sorted keys, several times as
    fast; ``line`` begins a line at the present depth.
    """
    deeper = line + " "
    if isinstance(value, dict) and value:
        parts = [f"{_string(key)}: {_lines(value[key], deeper)}" for key in sorted(value)]
        return f"{{{deeper}{f',{deeper}'.join(parts)}{line}}}"
    if isinstance(value, list | tuple) and value:
        return f"[{deeper}{f',{deeper}'.join([_lines(item, deeper) for item in value])}{line}]"
    if isinstance(value, str):
        return _string(value)
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


_string = json.encoder.encode_basestring


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place if the block ends well.

    Raises
    ------
    InputError
        If the file system refuses; nothing is left behind.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        name = target.with_name(f".{target.name}.{os.urandom(8).hex()}")
        name.touch(exist_ok=False)
        try:
            yield name
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        here = isinstance(error, IsADirectoryError)
        raise InputError(
            f"cannot write the file: {error.strerror or error}",
            path=str(path),
            fix="name a file in it" if here else "choose a folder that exists and is writable",
        ) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all (temporary file, then rename)."""
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` in canonical form, whole or not at all."""
    write_text(path, canonical_json(value))


def digest(value: Any) -> str:
    """``sha256:...`` of the canonical form."""
    return "sha256:" + hashlib.sha256(canonical_json(value).encode()).hexdigest()


def json_schema(type_: type[Any]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a type."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | msgspec.json.schema(type_)
