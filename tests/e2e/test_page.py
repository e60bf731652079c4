"""The page of an explanation, drawn by headless Chromium where one is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import optalloc as oa
from optalloc.report.page import page

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, _NAMES) if path), None)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_draws_every_view(tmp_path: Path) -> None:
    """A square a device, a bar a kind of memory, a row a change, and each in its stage's view."""
    assert CHROMIUM is not None
    work = oa.Training(global_batch=16, sequence_length=512)
    plan = oa.plan_training(
        oa.load_model("gpt2"), oa.load_cluster("8xa100-sxm-80g"), work, pin=["pp=2"]
    ).plan
    explanation = oa.explain(plan, replan=True, sensitivity=True, pin=["pp=2"])
    path = tmp_path / "page.html"
    path.write_text(page(plan, explanation), encoding="utf-8")
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", path.as_uri()]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    drawn = re.sub(r"<script.*?</script>", "", shown, flags=re.DOTALL)
    titles = re.findall(r"<h2>(.*?)</h2>", drawn)
    assert len(titles) == 8
    assert len(re.findall(r"<title>device \d+: stage", drawn)) == plan.num_devices
    kinds = len(explanation.memory[0].kinds)
    assert len(re.findall(r"<title>stage \d+, \w+: [\d.]+ GiB", drawn)) == 2 * kinds
    assert all(f"<td>{m.change}</td>" in drawn for m in explanation.marginals)
    assert all(rival.reason in drawn for rival in explanation.rivals)
    assert explanation.summary.splitlines()[0] in drawn
    assert "NaN" not in drawn
    assert "undefined" not in drawn
