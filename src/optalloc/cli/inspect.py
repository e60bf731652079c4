"""optalloc inspect: show the catalogues, a model, a device or a cluster."""

from __future__ import annotations

import argparse
import os
from typing import Any

from optalloc.cli.answers import add_format, colored
from optalloc.cluster import catalog
from optalloc.cluster.load import is_shorthand, load_cluster
from optalloc.errors import InputError, nearest
from optalloc.files import read_table
from optalloc.report import clusters
from optalloc.report.table import Table, render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument(
        "what",
        metavar="models|devices|MODEL|DEVICE|CLUSTER",
        help="a catalogue, a model (bundled name, config.json, its folder, model.toml), a device, "
        "or a cluster (64xh100-sxm or a cluster.toml)",
    )
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the answer; returns the exit status."""
    tables, data = _answer(arguments.what)
    print(render(tables, data, arguments.format, color=colored()), end="")
    return 0


def _answer(what: str) -> tuple[list[Table], Any]:
    """Tables for people and data for JSON of the thing that ``what`` names."""
    if what == "devices":
        return [clusters.devices_table()], clusters.devices_facts()
    if is_shorthand(what) or (what.endswith(".toml") and not _is_model(what)):
        cluster = load_cluster(what)
        return clusters.cluster_tables(cluster), clusters.cluster_facts(cluster)
    if what == "models":
        return _models()
    if catalog.is_device(what) and not os.path.exists(what):
        device = catalog.device(what)
        return [clusters.device_table(device)], clusters.device_facts(device)
    return _model(what)


def _is_model(path: str) -> bool:
    """Whether a TOML file says that it holds a model."""
    return str(read_table(path).get("format", "")).startswith("optalloc.model/")


def _models() -> tuple[list[Table], Any]:
    from optalloc.model.load import bundled_models, load_model
    from optalloc.report import models

    facts = [models.model_facts(load_model(name)) for name in bundled_models()]
    return [models.models_table()], facts


def _model(what: str) -> tuple[list[Table], Any]:
    from optalloc.model.load import bundled_models, load_model
    from optalloc.report import models

    try:
        model = load_model(what)
    except InputError as error:
        if os.path.exists(what) or os.sep in what:
            raise
        near = nearest(what, [*bundled_models(), *catalog.device_names()])
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise InputError(
            f"{what!r} is no model, device or cluster",
            path="inspect",
            fix=f"{hint}'optalloc inspect models' and 'inspect devices' list the known names",
        ) from error
    return [models.model_table(model)], models.model_facts(model)
