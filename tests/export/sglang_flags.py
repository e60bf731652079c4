"""Read words by SGLang's own parser of ``sglang.launch_server``, without what it imports to serve.

Run as ``python sglang_flags.py WORD...`` where the package is installed, with or without the
packages it needs: the modules that declare its flags are loaded from their source, and every other
module they import is an empty one. Prints the values that were read, as JSON.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

#: Modules that declare flags, and those that take part in declaring them.
_DECLARING = (
    "sglang.srt.server_args",
    "sglang.srt.arg_groups",
    "sglang.srt.environ",
    "sglang.srt.runtime_context",
    "sglang.srt.utils.network",
    "sglang.srt.function_call.parser_names",
    "sglang.srt.parser.reasoning_parser_names",
    "sglang.srt.speculative.decoupled_spec_io",
)
_USUAL = ("msgspec", "numpy", "packaging", "pydantic", "pydantic_core", "typing_extensions")


class _Empty(ModuleType):
    """A module in which every name is found."""

    __version__ = "2.0"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> MagicMock:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=f"{self.__name__}.{name}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what declares flags in the source, the standard library where it is, the rest empty."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] in (*sys.stdlib_module_names, *_USUAL):
            return None
        if any(fullname == name or fullname.startswith(f"{name}.") for name in _DECLARING):
            file = self.root.joinpath(*fullname.split(".")[1:])
            if file.is_dir():
                inside = [str(file)]
                return importlib.util.spec_from_file_location(
                    fullname, file / "__init__.py", submodule_search_locations=inside
                )
            return importlib.util.spec_from_file_location(fullname, file.with_suffix(".py"))
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def main(words: list[str]) -> None:
    """Print the values of these words."""
    spec = importlib.util.find_spec("sglang")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    sys.meta_path.insert(0, _Finder(Path(spec.submodule_search_locations[0])))
    module = importlib.import_module("sglang.srt.server_args")
    parser = argparse.ArgumentParser(allow_abbrev=False)
    module.ServerArgs.add_cli_args(parser)
    read = vars(parser.parse_args(words))
    plain = {k: v for k, v in read.items() if isinstance(v, str | int | float | None)}
    json.dump(plain, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
