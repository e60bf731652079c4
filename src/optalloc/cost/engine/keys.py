"""What a setup is known by: the keys under which constants are shifted.

Shifts of narrow levels are fitted beside those of wide ones and shrink towards none, so a setup
whose software, device and model were measured apart still gains from each.
"""

from __future__ import annotations

from optalloc.cluster.device import DeviceSpec
from optalloc.cost.engine.setup import Engine
from optalloc.model.spec import ModelSpec


def setup_keys(
    levels: tuple[str, ...],
    model: ModelSpec,
    device: DeviceSpec,
    engine: Engine,
    *,
    campaign: str = "",
) -> dict[str, str]:
    """The key of each level for one setup; empty where a part of the level is not known.

    A level is one part, or several joined by commas, for example ``"software, model"``. Parts are
    ``software``, ``release``, ``device``, ``weights`` (type of the experts' weights, or of all),
    ``model``, ``width`` (devices of a stage), ``spread`` (``dp``: data-parallel attention, ``ep``:
    experts spread, else ``tp``) and ``campaign``: how a series of measurements was made; empty for
    an ordinary client.
    """
    spread = "dp" if engine.attention_dp > 1 else "ep" if engine.moe_ep > 1 else "tp"
    parts = {
        "software": engine.software,
        "release": f"{engine.software} {engine.release}" if engine.release else "",
        "device": device.name,
        "weights": engine.expert_dtype or engine.weight_dtype,
        "model": model.name,
        "width": str(engine.tp * engine.attention_dp),
        "spread": spread,
        "campaign": campaign,
    }
    keys = {}
    for level in levels:
        own = [parts[name] for name in level.split(", ")]
        keys[level] = ", ".join(own) if all(own) else ""
    return keys
