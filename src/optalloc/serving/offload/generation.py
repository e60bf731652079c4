"""Generation: what a machine is asked to do, and in which types."""

from __future__ import annotations

from typing import Literal

import msgspec

from optalloc.errors import InputError, known_fix

#: Bits of one weight with the scales of its block. The q-types are those of GGUF (super-blocks of
#: 256, or blocks of 32 for q8_0 and q4_0); mxfp4 has a scale of 8 bits for 32, nvfp4 one for 16.
BITS = {
    "fp32": 32.0,
    "bf16": 16.0,
    "fp16": 16.0,
    "fp8": 8.0,
    "q8_0": 8.5,
    "q6_k": 6.5625,
    "q5_k": 5.5,
    "q4_k": 4.5,
    "q4_0": 4.5,
    "q3_k": 3.4375,
    "q2_k": 2.625,
    "mxfp4": 4.25,
    "nvfp4": 4.5,
}

_MOST = {"prompt_tokens": 10**9, "output_tokens": 10**9, "batch": 10**6, "chunk_tokens": 10**9}

#: Bits of one cached value, from the most precise.
KV_BITS = {"fp32": 32.0, "bf16": 16.0, "q8_0": 8.5, "fp8": 8.0, "q4_0": 4.5}

KvDtype = Literal["fp32", "bf16", "q8_0", "fp8", "q4_0"]


class Generation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``batch`` sequences at once: prompts are read in chunks, then tokens come one by one.

    Parameters
    ----------
    prompt_tokens, output_tokens : int
        Of each sequence; the first output token comes from the prompt.
    context_tokens : int, optional
        Tokens the KV cache has room for; default: prompt and output.
    batch : int
        Sequences at once.
    chunk_tokens : int
        Tokens of a prompt that pass the model at once.
    dtype, expert_dtype : str
        Types of the stored weights (:data:`BITS`); the experts' default is that of the others.
    kv_dtype : str
        Type of the cache (:data:`KV_BITS`).
    """

    prompt_tokens: int = 1024
    output_tokens: int = 256
    context_tokens: int = 0
    batch: int = 1
    chunk_tokens: int = 512
    dtype: str = "bf16"
    expert_dtype: str | None = None
    kv_dtype: KvDtype = "bf16"

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise InputError(
                    f"{name} is {getattr(self, name)}", path=name, fix=f"give 1 to {most:,}"
                )
        for name in ("dtype", "expert_dtype"):
            word = getattr(self, name)
            if word is not None and word not in BITS:
                raise InputError(
                    f"{word!r} is no type of stored weights",
                    path=name,
                    fix=known_fix(word, BITS),
                )
        least = self.prompt_tokens + self.output_tokens
        if self.context_tokens == 0:
            msgspec.structs.force_setattr(self, "context_tokens", least)
        elif self.context_tokens < least:
            raise InputError(
                f"a context of {self.context_tokens} tokens has no room for prompt and output",
                path="context",
                fix=f"give at least {least}",
            )

    @property
    def chunk(self) -> int:
        """Tokens of one sequence in the largest pass of prefill."""
        return min(self.chunk_tokens, self.prompt_tokens)

    @property
    def prefill_passes(self) -> int:
        """Passes that read the prompts."""
        return -(-self.prompt_tokens // self.chunk_tokens)

    @property
    def prefill_tokens(self) -> int:
        """Tokens of one pass of prefill over all sequences, on average, rounded up."""
        return -(-self.batch * self.prompt_tokens // self.prefill_passes)
