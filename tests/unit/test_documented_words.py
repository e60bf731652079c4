"""The clusters and machines that the documentation names in words exist."""

from __future__ import annotations

import re
from pathlib import Path

from optalloc.cluster.load import is_shorthand, load_cluster
from optalloc.serving.offload.machine import load_machine

ROOT = Path(__file__).parents[2]


def test_every_shorthand_of_the_documentation_is_read() -> None:
    """Files and words in capitals stand for the reader's own."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    clusters = set(re.findall(r"(?:--cluster|load_cluster\(\"|inspect) ?([0-9][\w.+-]*)", text))
    machines = {
        word for word in re.findall(r"--machine ([\w.+-]+)", text) if not word.endswith(".toml")
    } - {"FILE"}
    assert len(clusters) > 5
    assert len(machines) > 1
    for word in clusters:
        assert is_shorthand(word)
        assert load_cluster(word).nodes
    for word in machines:
        assert load_machine(word).gpus
