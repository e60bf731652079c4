"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets, beside or inside the repository; skips where it is absent.

    ``OPTALLOC_SHARED_DATA`` names another folder.
    """
    named = os.environ.get("OPTALLOC_SHARED_DATA")
    places = (
        [Path(named)]
        if named
        else [r / "shared" / "data" for r in (_REPOSITORY, _REPOSITORY.parent)]
    )
    for place in places:
        if place.is_dir():
            return place
    pytest.skip(f"no folder of public data at {' or '.join(map(str, places))}")
