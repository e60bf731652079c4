"""Pin the requirements: names, versions and hashes, no addresses."""

from __future__ import annotations

import email
import hashlib
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tools.set_up import BIN, PYTHON, ROOT, TORCH, environment, step

TRANSFORMERS, ACCELERATE = "transformers==5.23.0", "accelerate==1.15.0"


def lock() -> int:
    """Pin the requirements again: names, versions and hashes, no addresses."""
    tools = ROOT / "build" / "lock-tools"
    env = environment()
    uv = tools / BIN.name / "uv"
    if not uv.exists():
        step("Making a place for uv", [sys.executable, "-m", "venv", tools], "see above", env)
        step("Installing uv", [uv.with_name("pip"), "install", "uv"], "check the index", env)
    common = [
        uv, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11",
        "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--upgrade",
    ]  # fmt: skip
    main_lock, zig, torch = (ROOT / f"requirements{end}.lock" for end in ("", "-zig", "-torch"))
    advice = "check that the package index can be reached."
    step(
        "Resolving requirements.lock",
        [*common, "pyproject.toml", "--group", "dev", "-o", main_lock],
        advice,
        env,
    )
    step(
        "Resolving requirements-zig.lock",
        [*common, "--group", "zig", "-o", zig],
        advice,
        env,
    )
    _lock_torch(common, main_lock, torch, env)
    return 0


def _lock_torch(
    common: Sequence[object], main_lock: Path, target: Path, env: dict[str, str]
) -> None:
    """Pin the wheels that pip finds here (of torch the CPU's), and the packages that they need."""
    with tempfile.TemporaryDirectory() as folder:
        needed, pinned = [TRANSFORMERS], ""
        for wanted in (f"torch=={TORCH}", ACCELERATE):
            name = wanted.partition("=")[0]
            step(
                f"Finding {wanted}",
                [PYTHON, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-d",
                 folder, wanted],
                "run 'python3 dev.py demo' first and check that the index can be reached.",
                env,
            )  # fmt: skip
            (wheel,) = Path(folder).glob(f"{name}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
                needs = email.message_from_bytes(archive.read(metadata)).get_all(
                    "Requires-Dist", []
                )
            needed += [n for n in needs if "extra ==" not in n and not n.startswith("torch")]
            digest_ = hashlib.sha256(wheel.read_bytes()).hexdigest()
            pinned += f"{wanted} \\\n    --hash=sha256:{digest_}\n"
        inputs = Path(folder) / "torch-needs.in"
        inputs.write_text("\n".join(needed) + "\n")
        step(
            "Resolving requirements-torch.lock",
            [*common, inputs, "-c", main_lock, "-o", target],
            "read the message above.",
            env,
        )
        target.write_text(target.read_text() + pinned)
