"""Limits: which decisions of a serving space are fixed, widened or left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from optalloc.cost.engine.setup import KV_BYTES, WEIGHT_BYTES
from optalloc.errors import InputError, known_fix

ROLES = ("serve", "prefill", "decode")
MODES = ("aggregated", "disaggregated")
SOFTWARE = ("vllm", "sglang", "trtllm")

#: Decisions with words for values: all that may be named, and those searched where nothing is said.
WORDS = {
    "mode": (MODES, MODES),
    "software": (SOFTWARE, ("vllm",)),
    "weights": (tuple(WEIGHT_BYTES), ("bf16",)),
    "experts": (tuple(WEIGHT_BYTES), ()),
    "kv": (tuple(KV_BYTES), ("bf16",)),
}
#: Decisions with numbers for values.
NUMBERS = ("tp", "pp", "attention_dp", "moe_tp", "moe_ep", "chunk", "batch", "replicas")
NAMES = (*WORDS, *NUMBERS, "device")
_ALIASES = {"dp": "attention_dp", "ep": "moe_ep", "max_batch": "batch", "chunk_tokens": "chunk"}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Values left (``pin``) and excluded (``forbid``) by decision.

    The name of a decision may carry a role: ``prefill.tp`` holds for prefill workers alone.
    ``target`` leaves what one way to deploy can express (:mod:`targets`); empty: everything.
    """

    pin: dict[str, tuple[str, ...]] = {}
    forbid: dict[str, tuple[str, ...]] = {}
    target: str = ""

    def allows(self, name: str, value: object, role: str = "") -> bool:
        """True if the value of one decision is left in the space."""
        word = str(value)
        for key in (name, f"{role}.{name}"):
            if key in self.pin and word not in self.pin[key]:
                return False
            if word in self.forbid.get(key, ()):
                return False
        return True

    def names(self, name: str, role: str) -> bool:
        """True if a limit says something of a decision of a role."""
        return any(k in part for k in (name, f"{role}.{name}") for part in (self.pin, self.forbid))

    def choices(self, name: str, usual: Sequence[object], role: str) -> tuple[str, ...]:
        """The values of a decision that are searched: those pinned, or else the usual ones."""
        given = self.pin.get(f"{role}.{name}", self.pin.get(name))
        values = given if given is not None else tuple(map(str, usual))
        return tuple(v for v in dict.fromkeys(values) if self.allows(name, v, role))

    def without(self, kind: str, name: str) -> Limits:
        """These limits less one entry."""
        entries = {k: v for k, v in getattr(self, kind).items() if k != name}
        return msgspec.structs.replace(self, **{kind: entries})

    def with_pin(self, name: str, *values: object) -> Limits:
        """These limits with one decision fixed anew."""
        return msgspec.structs.replace(self, pin=self.pin | {name: tuple(map(str, values))})


def parse_limits(pins: Iterable[str], forbids: Iterable[str] = ()) -> Limits:
    """Limits from words such as ``tp=8``, ``kv=bf16,fp8``, ``decode.batch=64``.

    Raises
    ------
    InputError
        If a name is unknown or a value is not of its kind.
    """
    return Limits(pin=_parsed(pins, "--pin"), forbid=_parsed(forbids, "--forbid"))


def _parsed(words: Iterable[str], flag: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        role, dot, rest = name.strip().replace("-", "_").rpartition(".")
        rest = _ALIASES.get(rest, rest)
        if not equals or rest not in NAMES or (dot and (role not in ROLES or rest == "mode")):
            raise InputError(
                f"{word!r} names no decision",
                path=flag,
                fix=known_fix(rest, NAMES, "{}=..."),
            )
        values = tuple(_value(rest, part.strip(), flag) for part in text.split(","))
        key = role + dot + rest
        found[key] = found.get(key, ()) + values
    return found


_EXAMPLES = {"chunk": 8192, "batch": 64}


def _value(name: str, text: str, flag: str) -> str:
    if name in WORDS:
        known = WORDS[name][0]
        if text in known:
            return text
        raise InputError(
            f"{text!r} is no value of {name}", path=flag, fix=f"use one of {', '.join(known)}"
        )
    if name == "device":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise InputError(
            f"{text!r} is no whole number of at least 1",
            path=flag,
            pointer=name,
            fix=f"write {name}={_EXAMPLES.get(name, 8)}",
        )
    return str(int(text))
