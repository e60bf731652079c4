"""What a newcomer runs first works: the demo, the code of both readmes, the picture."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _python(*words: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _blocks(readme: str) -> list[str]:
    text = (ROOT / readme).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_demo_writes_plan_trace_and_launch_files(tmp_path: Path) -> None:
    """Every file is there, and the plan is for 64 devices at most."""
    shown = _python(str(ROOT / "examples" / "demo.py"), "out", cwd=tmp_path)
    assert str((tmp_path / "out").resolve()) in shown
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert 1 <= plan["num_devices"] <= 64
    assert sum(n for s in plan["stages"] for n in s["num_layers"].values()) == 80
    assert json.loads((tmp_path / "out" / "step.trace.json").read_text())
    for target in ("megatron", "deepspeed", "pytorch"):
        assert any((tmp_path / "out" / target).iterdir()), target


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_code_of_the_readme_runs(readme: str, tmp_path: Path) -> None:
    """All Python blocks, one after another, as a person would paste them."""
    _python("-c", "\n".join(_blocks(readme)), cwd=tmp_path)
    assert (tmp_path / "plan.json").is_file()


def test_both_readmes_show_the_same_code() -> None:
    """Apart from the comments, which are translated."""

    def bare(readme: str) -> list[str]:
        return [re.sub(r"\s*#.*", "", line) for b in _blocks(readme) for line in b.splitlines()]

    assert bare("README.md") == bare("README.zh-CN.md")


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_both_commands_are_in_the_first_ten_lines(readme: str) -> None:
    """A reader need not scroll to start."""
    head = (ROOT / readme).read_text(encoding="utf-8").splitlines()[:10]
    assert any("python3 dev.py demo" in line for line in head)
    assert any("python3 dev.py test" in line for line in head)


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_files_the_readme_links_to_exist(readme: str) -> None:
    """The picture among them."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_picture_shows_every_stage(tmp_path: Path) -> None:
    """It is well-formed SVG with a row a stage and says what was proven."""
    _python(str(ROOT / "examples" / "demo.py"), "out", cwd=tmp_path)
    plan = tmp_path / "out" / "plan.json"
    _python(str(ROOT / "examples" / "make_picture.py"), str(plan), "picture.svg", cwd=tmp_path)
    drawn = ET.parse(tmp_path / "picture.svg").getroot()
    words = "\n".join(element.text or "" for element in drawn.iter())
    for stage in json.loads(plan.read_text())["stages"]:
        assert f"{stage['index']}   {sum(stage['num_layers'].values())} layers" in words
    assert "estimated step" in words
