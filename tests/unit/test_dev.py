"""dev.py and tools/: stamps, digests, the compiler fallback and the summary, nothing installed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import types
from pathlib import Path

import dev
import pytest
from tools import set_up

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module of the set-up, pointed at an empty folder instead of the repository."""
    monkeypatch.setattr(set_up, "ROOT", tmp_path)
    monkeypatch.setattr(set_up, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(set_up, "STAMPS", tmp_path / ".venv" / "stamps")
    monkeypatch.setattr(set_up, "UNFINISHED", tmp_path / ".venv" / "set-up-unfinished")
    return set_up


def _sources(root: Path) -> None:
    (root / "native").mkdir()
    for name in ("native/kernel.cpp", "CMakeLists.txt", "pyproject.toml", "requirements.lock"):
        (root / name).write_text("first\n")
    (root / "requirements-torch.lock").write_text("first\n")


@pytest.mark.parametrize("path", ["dev.py", "tools/set_up.py", "tools/lock.py"])
def test_set_up_uses_the_standard_library_alone(path: str) -> None:
    """A fresh Python can run it: every import is of the standard library or of tools/."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "tools"}


def test_steps_are_pending_until_stamped(tool: types.ModuleType, tmp_path: Path) -> None:
    """Two steps at first, none once both stamps are written, torch only when asked for."""
    _sources(tmp_path)
    todo = tool._pending("3.11.7", False)
    assert list(todo) == ["requirements", "project"]
    for name, wanted in todo.items():
        tool.write_stamp(name, wanted)
    assert tool._pending("3.11.7", False) == {}
    assert list(tool._pending("3.11.7", True)) == ["torch"]


def test_a_changed_kernel_rebuilds_the_project_alone(
    tool: types.ModuleType, tmp_path: Path
) -> None:
    """The requirements stay as they are."""
    _sources(tmp_path)
    for name, wanted in tool._pending("3.11.7", False).items():
        tool.write_stamp(name, wanted)
    (tmp_path / "native" / "kernel.cpp").write_text("second\n")
    assert list(tool._pending("3.11.7", False)) == ["project"]


def test_another_python_redoes_every_step(tool: types.ModuleType, tmp_path: Path) -> None:
    """Wheels are those of one Python."""
    _sources(tmp_path)
    for name, wanted in tool._pending("3.11.7", False).items():
        tool.write_stamp(name, wanted)
    assert list(tool._pending("3.12.1", False)) == ["requirements", "project"]


def test_an_interrupted_set_up_is_made_from_nothing(
    tool: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that fails leaves the mark behind; the next run makes the environment again."""
    _sources(tmp_path)
    made, installed = [], []
    python = tmp_path / ".venv" / "python"

    def make() -> None:
        made.append(1)
        (tmp_path / ".venv").mkdir(exist_ok=True)
        version = ".".join(map(str, sys.version_info[:3]))
        (tmp_path / ".venv" / "pyvenv.cfg").write_text(f"version = {version}\n")
        python.write_text("")
        tool.UNFINISHED.unlink(missing_ok=True)

    def install(name: str, env: dict[str, str]) -> None:
        del env
        installed.append(name)
        if len(installed) == 2:
            raise tool.StepFailed

    monkeypatch.setattr(tool, "PYTHON", python)
    monkeypatch.setattr(tool, "_make_venv", make)
    monkeypatch.setattr(tool, "_install", install)
    with pytest.raises(tool.StepFailed):
        tool.set_up()
    assert tool.UNFINISHED.exists()
    tool.set_up()
    assert len(made) == 2
    assert not tool.UNFINISHED.exists()
    tool.set_up()
    assert len(made) == 2, "a finished set-up is kept"


def test_a_failed_step_shows_its_output_and_what_to_do(
    tool: types.ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    """The person sees the tool's own words and the advice."""
    command = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    with pytest.raises(tool.StepFailed):
        tool.step("Breaking something", command, "mend it.", dict(os.environ))
    shown = capfd.readouterr().err
    assert "the reason" in shown
    assert "This step failed: Breaking something" in shown
    assert "What to do: mend it." in shown


def test_a_compiler_on_the_path_is_used(tool: types.ModuleType, tmp_path: Path) -> None:
    """Nothing is installed and no variable set where g++ is found."""
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    assert tool._compiler({"PATH": str(tmp_path)}) == {}


@pytest.mark.skipif(os.name == "nt", reason="the wrappers are shell scripts")
def test_without_a_compiler_the_wheel_serves_as_one(
    tool: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CXX is a command that passes its arguments on to ``python -m ziglang c++``."""
    locks = []
    monkeypatch.setattr(tool, "_pip_install", lambda lock, *_: locks.append(lock))
    echo = tmp_path / "echo"
    echo.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    echo.chmod(0o755)
    monkeypatch.setattr(tool, "PYTHON", echo)
    (tmp_path / ".venv").mkdir()
    (tmp_path / "empty").mkdir()
    chosen = tool._compiler({"PATH": str(tmp_path / "empty")})
    assert locks == ["requirements-zig.lock"]
    done = subprocess.run([chosen["CXX"], "-c", "a b.cpp"], capture_output=True, check=True)
    assert done.stdout == b"-m|ziglang|c++|-c|a b.cpp|"
    assert f"-DCMAKE_AR={tmp_path}" in chosen["CMAKE_ARGS"]


def test_summary_names_what_failed_and_the_exit_status_is_one(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A failing check does not hide the ones after it."""
    ran: dict[str, list[object]] = {
        "good": [sys.executable, "-c", "pass"],
        "bad": [sys.executable, "-c", "print('why'); raise SystemExit(1)"],
        "later": [sys.executable, "-c", "pass"],
    }
    assert dev._run_all(ran, dict(os.environ)) == 1
    out, err = capfd.readouterr()
    assert "why" in out
    assert [line.split()[0] for line in err.splitlines() if line.endswith(("good", "bad", "later"))
            and not line.startswith("==")] == ["ok", "FAILED", "ok"]  # fmt: skip
    assert "Failed: bad." in err


@pytest.mark.parametrize("lock", ["requirements", "requirements-zig", "requirements-torch"])
def test_locks_pin_every_package_with_hashes_and_hold_no_address(lock: str) -> None:
    """``pip install --require-hashes`` takes them, from whichever index a person uses."""
    text = (ROOT / f"{lock}.lock").read_text(encoding="utf-8")
    assert "://" not in text
    for entry in text.replace("\\\n", " ").splitlines():
        assert "==" in entry, entry
        assert "--hash=sha256:" in entry, entry


def test_lock_holds_the_packages_the_project_declares() -> None:
    """A new dependency needs ``python3 dev.py lock``."""
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = {line.split("==")[0] for line in lock.splitlines() if "==" in line}
    assert {re.split(r"[<>=~! \[]", name)[0].lower() for name in declared} <= locked
