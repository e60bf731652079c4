"""Rent the cheapest GPUs for a load of requests, with headroom and a spare, and check the proof."""

from __future__ import annotations

from pathlib import Path

import msgspec

import optalloc as oa


def main() -> None:
    """The example of Mélange at full load, then with what an operator would ask for."""
    problem = oa.load_fleet(Path(__file__).with_name("melange.json"))
    safer = msgspec.structs.replace(
        problem, utilization=0.8, redundancy="replica", utilization_after_failure=1.0
    )
    for title, asked in (("at full load", problem), ("with headroom and a spare", safer)):
        result = oa.plan_fleet(asked)
        fleet = {
            offer.name: count
            for offer, count in zip(asked.offers, result.counts, strict=True)
            if count
        }
        print(f"{title}: {fleet}, {result.bounds.primal:.2f} USD/h, gap {result.bounds.gap:g}")
        print(f"  {result.busiest:.0%} busy, {result.headroom:.0%} more load fits")
        assert result.routes is not None
        oa.certify_fleet(
            asked,
            result.counts,
            result.routes.shares,
            value_usd_per_h=result.bounds.primal,
            bound_usd_per_h=result.bounds.dual,
            witness=result.witness,
        )


if __name__ == "__main__":
    main()
