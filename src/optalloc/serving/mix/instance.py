"""Read a fleet problem from a file: our TOML or JSON, a table of throughputs, or Mélange's form."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import msgspec

from optalloc import files
from optalloc.cluster import catalog
from optalloc.errors import InputError, known_fix
from optalloc.records import read_cells
from optalloc.serving.mix.problem import (
    Bucket,
    FleetProblem,
    Limit,
    Market,
    Offer,
    Redundancy,
)


class FleetEngine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of replica; ``requests_per_s`` by bucket, unless a table gives it.

    ``devices`` are GPUs of one replica. An entry of 0 is a bucket that it cannot serve in time.
    """

    name: str
    device: str = ""
    devices: int = 1
    requests_per_s: tuple[float, ...] | None = None


class FleetOffer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an engine can be rented; ``price_usd_per_h`` is of one replica.

    Without a price it is that of the device in the catalogue times the replica's devices.
    ``interruption`` is the share of the time for which a spot replica is away; ``at_least``
    replicas are rented in any case, ``at_most`` can be had.
    """

    engine: str
    name: str = ""
    region: str = ""
    market: Market = "on-demand"
    price_usd_per_h: float | None = None
    interruption: float = 0.0
    at_least: int = 0
    at_most: int | None = None


class FleetFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fleet problem as people write it.

    ``table`` names a CSV file beside it with columns ``input_len,output_len,rate_per_s`` and one
    of requests/s an engine; it replaces ``buckets`` and ``requests_per_s``.
    """

    format: Literal["optalloc.fleet/1"] = "optalloc.fleet/1"
    name: str = ""
    buckets: tuple[Bucket, ...] = ()
    table: str | None = None
    engines: tuple[FleetEngine, ...]
    offers: tuple[FleetOffer, ...]
    limits: tuple[Limit, ...] = ()
    utilization: float = 1.0
    redundancy: Redundancy = "none"
    utilization_after_failure: float | None = None


class MelangeDevice(msgspec.Struct, frozen=True):
    """A GPU of a Mélange profile: USD/h, and requests/s by input and output size."""

    cost: float
    tputs: tuple[tuple[float, ...], ...]


class MelangeFile(msgspec.Struct, frozen=True):
    """A profile in the form of the Mélange artifact; ``slice_factor`` matters to its solver alone.

    ``workload_distribution`` is the share of requests by input size (row) and output size.
    """

    gpu_info: dict[str, MelangeDevice]
    workload_distribution: tuple[tuple[float, ...], ...]
    total_request_rate: float
    slice_factor: int = 1


def load_fleet(path: str | os.PathLike[str]) -> FleetProblem:
    """The problem of a ``.toml`` or ``.json`` file in the form of :class:`FleetFile`.

    A JSON file with the key ``gpu_info`` is read as a Mélange profile.

    Raises
    ------
    InputError
        If the file cannot be read or a value makes no sense; names the file and the place.
    """
    where = str(path)
    if where.endswith(".toml"):
        data: Any = files.read_table(path)
    else:
        data = files.parse_json(files.read_text(path), path=where)
    if isinstance(data, dict) and "gpu_info" in data:
        return _melange(files.typed(data, MelangeFile, path=where), where)
    file = files.typed(data, FleetFile, path=where)
    try:
        return _problem(file, Path(path))
    except InputError as error:
        if error.path:
            raise
        raise InputError(error.what, path=where, pointer=error.pointer, fix=error.fix) from error


def save_fleet(problem: FleetProblem, path: str | os.PathLike[str]) -> None:
    """Write a problem as JSON so that :func:`load_fleet` reads it back."""
    engines = {
        (o.device, o.devices, o.requests_per_s): f"engine-{i}" for i, o in enumerate(problem.offers)
    }
    file = FleetFile(
        name=problem.name,
        buckets=problem.buckets,
        engines=tuple(
            FleetEngine(name=name, device=device, devices=count, requests_per_s=rates)
            for (device, count, rates), name in engines.items()
        ),
        offers=tuple(
            FleetOffer(
                engine=engines[o.device, o.devices, o.requests_per_s],
                name=o.name,
                region=o.region,
                market=o.market,
                price_usd_per_h=o.price_usd_per_h,
                interruption=o.interruption,
                at_least=o.at_least,
                at_most=o.at_most,
            )
            for o in problem.offers
        ),
        limits=problem.limits,
        utilization=problem.utilization,
        redundancy=problem.redundancy,
        utilization_after_failure=problem.utilization_after_failure,
    )
    files.write_json(path, file)


def _problem(file: FleetFile, path: Path) -> FleetProblem:
    buckets = file.buckets
    columns: dict[str, tuple[float, ...]] = {}
    if file.table is not None:
        if buckets:
            raise InputError(
                "buckets are given twice", pointer="$.table", fix="keep the table or the buckets"
            )
        buckets, columns = read_table(path.parent / file.table)
    engines = {engine.name: engine for engine in file.engines}
    offers = []
    for index, offer in enumerate(file.offers):
        if offer.engine not in engines:
            raise InputError(
                f"there is no engine {offer.engine!r}",
                pointer=f"$.offers[{index}].engine",
                fix=known_fix(offer.engine, engines),
            )
        offers.append(_offer(offer, engines[offer.engine], columns, index))
    return FleetProblem(
        name=file.name or path.stem,
        buckets=buckets,
        offers=tuple(offers),
        limits=file.limits,
        utilization=file.utilization,
        redundancy=file.redundancy,
        utilization_after_failure=file.utilization_after_failure,
    )


def _offer(
    offer: FleetOffer, engine: FleetEngine, columns: dict[str, tuple[float, ...]], index: int
) -> Offer:
    rates = engine.requests_per_s if engine.requests_per_s is not None else columns.get(engine.name)
    if rates is None:
        raise InputError(
            f"the engine {engine.name!r} has no throughputs",
            pointer=f"$.offers[{index}].engine",
            fix="give it requests_per_s, or a column of its name in the table",
        )
    price = offer.price_usd_per_h
    if price is None:
        price = _catalogue_price(engine, index)
    words = [engine.name, offer.region, offer.market if offer.market != "on-demand" else ""]
    return Offer(
        name=offer.name or " ".join(word for word in words if word),
        device=engine.device,
        devices=engine.devices,
        region=offer.region,
        market=offer.market,
        price_usd_per_h=price,
        interruption=offer.interruption,
        at_least=offer.at_least,
        at_most=offer.at_most,
        requests_per_s=rates,
    )


def _catalogue_price(engine: FleetEngine, index: int) -> float:
    price = catalog.device(engine.device).price_usd_per_h if engine.device else None
    if price is None:
        raise InputError(
            f"the catalogue has no public price of {engine.device or engine.name!r}",
            pointer=f"$.offers[{index}]",
            fix="give price_usd_per_h",
        )
    return float(Fraction(repr(price)) * engine.devices)


def read_table(
    path: str | os.PathLike[str],
) -> tuple[tuple[Bucket, ...], dict[str, tuple[float, ...]]]:
    """Buckets of a CSV file with ``input_len,output_len,rate_per_s``, and its other columns.

    Raises
    ------
    InputError
        If a column is missing or a cell is no number; names the line.
    """
    rows = read_cells(path)
    head = [name.strip() for name in rows[0]] if rows else []
    fixed = ("input_len", "output_len", "rate_per_s")
    for name in fixed:
        if name not in head:
            raise InputError(
                f"the column {name!r} is missing",
                path=str(path),
                pointer="line 1",
                fix=f"name the first columns {','.join(fixed)}",
            )
    buckets: list[Bucket] = []
    columns: dict[str, list[float]] = {name: [] for name in head if name not in fixed}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        cells = dict(zip(head, row, strict=False))
        try:
            buckets.append(
                Bucket(
                    input_len=int(cells["input_len"]),
                    output_len=int(cells["output_len"]),
                    rate_per_s=float(cells["rate_per_s"]),
                )
            )
            for name, column in columns.items():
                column.append(float(cells[name]))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"a cell is missing or no number: {error}",
                path=str(path),
                pointer=f"line {number}",
                fix="write whole tokens, requests/s, and 0 where a bucket cannot be served",
            ) from error
    return tuple(buckets), {name: tuple(column) for name, column in columns.items()}


def _melange(data: MelangeFile, where: str) -> FleetProblem:
    cells = [
        (row, column)
        for row, shares in enumerate(data.workload_distribution)
        for column in range(len(shares))
    ]
    rate = Fraction(repr(data.total_request_rate))
    offers = []
    for name, gpu in data.gpu_info.items():
        try:
            rates = tuple(gpu.tputs[row][column] for row, column in cells)
        except IndexError as error:
            raise InputError(
                "the throughputs and the distribution have different shapes",
                path=where,
                pointer=f"$.gpu_info.{name}.tputs",
                fix="give a number for every input and output size",
            ) from error
        offers.append(Offer(name=name, device=name, price_usd_per_h=gpu.cost, requests_per_s=rates))
    shares = data.workload_distribution
    return FleetProblem(
        name=Path(where).stem,
        buckets=tuple(
            Bucket(
                input_len=row,
                output_len=column,
                rate_per_s=float(Fraction(repr(shares[row][column])) * rate),
            )
            for row, column in cells
        ),
        offers=tuple(offers),
    )
