"""Keys: typed reading of a ``config.json``, with the file and the pointer in every complaint."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from optalloc.errors import InputError
from optalloc.model.spec import MOST, MOST_LAYERS

# Similarity above which a key is taken for a misspelling: hiden_size, but not hidden_act.
_SAME_WORD = 0.9


class Keys:
    """One object of a configuration file.

    A key whose value is ``null`` counts as absent. A name given as ``"a|b"`` accepts either key.

    Parameters
    ----------
    data : Mapping
        The object as JSON gave it.
    path : str
        File it came from.
    pointer : str
        Where in the file it stands.
    """

    def __init__(self, data: Mapping[str, object], *, path: str, pointer: str = "$") -> None:
        self.data, self.path, self.pointer = data, path, pointer

    def has(self, name: str) -> bool:
        """True if the key is there and not null."""
        return self._find(name)[1] is not None

    def layers(self, name: str = "num_hidden_layers", default: int | None = None) -> int:
        """A number of layers; without a default the key is required."""
        return self.whole(name, default, most=MOST_LAYERS)

    def whole(
        self, name: str, default: int | None = None, *, minimum: int = 1, most: int = MOST
    ) -> int:
        """A whole number; without a default the key is required."""
        key, value = self._find(name)
        if value is None:
            if default is None:
                raise self.missing(key)
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.error(key, f"{key!r} is {value!r}", f"give a whole number >= {minimum}")
        if value > most:
            raise self.error(key, f"{key!r} is {value:,}", f"give a whole number <= {most:,}")
        return value

    def maybe(self, name: str, *, minimum: int = 0) -> int | None:
        """A whole number, or None where the key is absent."""
        return self.whole(name, minimum=minimum) if self.has(name) else None

    def flag(self, name: str, default: bool) -> bool:
        """A truth value."""
        key, value = self._find(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"{key!r} is {value!r}", "write true or false")
        return value

    def word(self, name: str, default: str | None = None) -> str:
        """A text; without a default the key is required."""
        key, value = self._find(name)
        if value is None:
            if default is None:
                raise self.missing(key)
            return default
        if not isinstance(value, str):
            raise self.error(key, f"{key!r} is {value!r}", "write a text")
        return value

    def words(self, name: str, *, length: int | None = None) -> list[str] | None:
        """A list of texts, of a given length, or None where the key is absent."""
        value = self._list(name, str)
        if value is not None and length is not None and len(value) != length:
            key = self._find(name)[0]
            raise self.error(
                key, f"{key!r} has {len(value)} entries for {length} layers", "give one a layer"
            )
        return None if value is None else [str(item) for item in value]

    def wholes(self, name: str) -> list[int]:
        """A list of whole numbers; empty where the key is absent."""
        return [int(str(item)) for item in self._list(name, int) or []]

    def section(self, name: str) -> Keys:
        """A nested object; required."""
        key, value = self._find(name)
        if value is None:
            raise self.missing(key)
        if not isinstance(value, dict):
            raise self.error(key, f"{key!r} is not an object", "write an object of keys")
        return Keys(value, path=self.path, pointer=f"{self.pointer}.{key}")

    def missing(self, key: str) -> InputError:
        """The complaint about an absent key, or one that is null."""
        if key in self.data:
            return self.error(key, f"{key!r} is null", "give it a value")
        near = difflib.get_close_matches(key, self.data, 1, _SAME_WORD)
        fix = f"did you mean it by {near[0]!r}?" if near else f"add {key!r}"
        return self.error(key, f"the key {key!r} is missing", fix)

    def error(self, key: str, what: str, fix: str) -> InputError:
        """A complaint about the value of a key."""
        return InputError(what, path=self.path, pointer=f"{self.pointer}.{key}", fix=fix)

    def divided(self, total: str, parts: str) -> int:
        """One key's number divided by another's, which must go without remainder."""
        whole, by = self.whole(total), self.whole(parts)
        if whole % by:
            key = self._find(total)[0]
            raise self.error(
                key,
                f"{key!r} is {whole}, no multiple of {parts!r} {by}",
                "correct one of them, or give the size of a head as 'head_dim'",
            )
        return whole // by

    def _find(self, name: str) -> tuple[str, object]:
        keys = name.split("|")
        for key in keys:
            if self.data.get(key) is not None:
                return key, self.data[key]
        return keys[0], None

    def _list(self, name: str, kind: type) -> list[object] | None:
        key, value = self._find(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            words = "texts" if kind is str else "whole numbers"
            raise self.error(key, f"{key!r} is not a list of {words}", f"write a list of {words}")
        return value
