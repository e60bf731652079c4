"""The public names are whole, sorted, importable, documented, and cheap to import."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import optalloc

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


def test_public_names_are_sorted_and_unique() -> None:
    """So that a new name has one place."""
    assert list(optalloc.__all__) == sorted(set(optalloc.__all__))


@pytest.mark.parametrize("name", [n for n in optalloc.__all__ if n != "__version__"])
def test_public_name_is_the_object_of_its_home(name: str) -> None:
    """``optalloc.X`` and ``optalloc.home.X`` are one object."""
    home = importlib.import_module(optalloc._HOME[name])
    assert getattr(optalloc, name) is getattr(home, name)


@pytest.mark.parametrize("name", [n for n in optalloc.__all__ if n != "__version__"])
def test_public_name_has_a_docstring(name: str) -> None:
    """Everything a user may call says what it is."""
    assert (inspect.getdoc(getattr(optalloc, name)) or "").strip()


@pytest.mark.parametrize("name", [n for n in optalloc.__all__ if n != "__version__"])
def test_public_name_is_in_the_reference(name: str) -> None:
    """A new public name needs its place in docs/reference."""
    pages = "".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    assert f"optalloc.{name}\n" in pages, f"add optalloc.{name} to docs/reference"


def test_type_checkers_see_every_public_name() -> None:
    """They do not run ``__getattr__``: each name is imported under TYPE_CHECKING too."""
    tree = ast.parse(inspect.getsource(optalloc))
    blocks = [
        node
        for node in tree.body
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    ]
    seen = {
        alias.asname: node.module
        for block in blocks
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == optalloc._HOME


def test_dir_lists_the_public_names() -> None:
    """Completion in a shell shows them before they are first used."""
    assert dir(optalloc) == list(optalloc.__all__)


def test_unknown_name_raises_attribute_error() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = optalloc.no_such_name


def test_importing_the_package_imports_no_dependency() -> None:
    """numpy, msgspec and rich come with the name that needs them."""
    code = (
        "import sys, optalloc; print([m for m in ('numpy','msgspec','rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
