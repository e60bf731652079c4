"""Read TOML and JSON into typed values, write canonical JSON, take digests, make schemas."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from optalloc.errors import InputError
from optalloc.mistakes import explained, item_of, structs_of
from optalloc.units import dimension_of, parse_quantity

T = TypeVar("T")

#: Endings of keys whose values are whole numbers: "79.6 GiB" is rounded to a byte.
_WHOLE = ("_bytes", "_flops", "_tokens")


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file, less a byte order mark; or one clear error."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            f"cannot read the file: {error.strerror or error}",
            path=str(path) or "an empty path",
            fix="check the path and its permissions",
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            "the file is not UTF-8 text", path=str(path), fix="save it as UTF-8 text"
        ) from error


def parse_json(text: str, *, path: str) -> Any:
    """Plain values of a JSON text; a syntax error names its line."""
    with _readable("JSON", path):
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"not valid JSON: {error.msg}",
                path=path,
                pointer=f"line {error.lineno}, column {error.colno}",
                fix="correct the syntax there; the file may be cut off",
            ) from error
        if _SURROGATE.search(text):
            msgspec.json.encode(value)  # halves of a pair are no text
        return value


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@contextlib.contextmanager
def _readable(form: str, path: str) -> Iterator[None]:
    """What a reader of the standard library cannot take, though the syntax may be right."""
    try:
        yield
    except RecursionError as error:
        raise InputError(
            f"the {form} is nested too deeply",
            path=path,
            fix="give a file of the format this command reads",
        ) from error
    except UnicodeEncodeError as error:
        raise InputError(
            "a text holds half of a surrogate pair", path=path, fix="write the character itself"
        ) from error
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(
            "a number has too many digits", path=path, fix="give numbers of usual size"
        ) from error


def read_json(path: str | os.PathLike[str], type_: type[T]) -> T:
    """Read a JSON file into ``type_``; raises InputError with the JSON pointer."""
    return typed(parse_json(read_text(path), path=str(path)), type_, path=str(path))


def read_toml(path: str | os.PathLike[str], type_: type[T]) -> T:
    """Read a TOML file into ``type_``; quantities may be strings with units."""
    return typed(read_table(path), type_, path=str(path))


def read_table(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The plain values of a TOML file, for :func:`typed`."""
    with _readable("TOML", str(path)):
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
        raise explained(error, data, type_, path) from error
    except InputError as error:  # a value's own check knows the place inside the file, not the file
        if error.path:
            raise
        raise InputError(error.what, path=path, pointer=error.pointer, fix=error.fix) from error


def _with_quantities(data: Any, path: str, pointer: str, key: str) -> Any:
    if isinstance(data, dict):
        return {k: _with_quantities(v, path, f"{pointer}.{k}", k) for k, v in data.items()}
    if isinstance(data, list):
        return [_with_quantities(v, path, f"{pointer}[{i}]", key) for i, v in enumerate(data)]
    if not isinstance(data, str | float):
        return data
    ending = dimension_of(key)
    if isinstance(data, str):
        if ending is None:
            return data
        data = parse_quantity(data, ending, path=path, pointer=pointer)
    if not math.isfinite(data):
        raise InputError(
            f"the number is {data}", path=path, pointer=pointer, fix="give a finite number"
        )
    return round(data) if ending in _WHOLE or (ending and data.is_integer()) else data


def known_only(data: Any, type_: Any) -> Any:
    """``data`` less the keys that the structs of ``type_`` have not, at any depth.

    That is how a file of a newer minor version is read: such a version only adds keys.
    """
    if isinstance(data, dict):
        structs = [s for s in structs_of(type_) if _has_tag(s, data)]
        if not structs:
            return {key: known_only(value, item_of(type_)) for key, value in data.items()}
        types_ = {f.encode_name: f.type for s in structs for f in msgspec.structs.fields(s)}
        tags = {s.__struct_config__.tag_field for s in structs}
        return {
            key: known_only(value, types_.get(key))
            for key, value in data.items()
            if key in types_ or key in tags
        }
    if isinstance(data, list):
        return [known_only(value, item_of(type_)) for value in data]
    return data


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


class _Untouched(Exception):
    pass


def require_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path at once, before the work whose outcome is to be written there.

    Raises
    ------
    InputError
        As :func:`replacing`.
    """
    with contextlib.suppress(_Untouched), replacing(path):
        raise _Untouched


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all (temporary file, then rename)."""
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` in canonical form, whole or not at all."""
    write_text(path, canonical_json(value))


def digest(value: Any) -> str:
    """``sha256:...`` of the canonical form, of a struct as it is when it is read back.

    Whole numbers in fields of floats are then floats, as in a file: 1 and 1.0 have one digest.
    """
    if isinstance(value, msgspec.Struct):
        value = msgspec.convert(msgspec.to_builtins(value, str_keys=True), type(value))
    return "sha256:" + hashlib.sha256(canonical_json(value).encode()).hexdigest()


def json_schema(type_: type[Any]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a type."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | msgspec.json.schema(type_)
