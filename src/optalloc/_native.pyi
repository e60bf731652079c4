"""Types of the native kernels; see native/bindings."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_Ints = NDArray[np.int32]
_Longs = NDArray[np.int64]
_Reals = NDArray[np.float64]
_Bytes = NDArray[np.uint8]

# -- training --

# Bounds of shape (schedules, n); work (n, 7).
def path_bounds(
    work: _Reals, schedules: _Ints, chunks: _Ints, stages: _Longs, micro: _Longs, layers: int, /
) -> _Reals: ...

# Eleven arrays of stems and keys, then ten tables and figures by number of stages and devices
# (Stems and Stages in native/training/bounds.hpp), then how many seeds. Returns (configurations,
# least bound, least bound of each stem, configurations of each, stems and stages of the seeds).
def survey_stems(
    *arguments: _Longs | _Reals | _Bytes | float,
) -> tuple[int, float, _Reals, _Longs, _Longs, _Longs]: ...

# The same with the bounds and counts of stems, goal and ceiling. Returns (stem, stages,
# configurations, bound of each shape, configurations excluded by work, by memory and by paths).
def promising_shapes(
    *arguments: _Longs | _Reals | _Bytes | float,
) -> tuple[_Longs, _Longs, _Longs, _Reals, int, int, int]: ...

class ShapeCache:
    def __init__(self) -> None: ...

# (outcome, value, bound, leaves, layers per chunk, full, selective) of each mesh.
def solve_meshes(
    ints: _Ints,
    reals: _Reals,
    layers: _Reals,
    groups: _Longs,
    sequence: _Ints,
    boundary: _Reals,
    cache: ShapeCache,
    leader_groups: Sequence[int],
    leader_values: Sequence[float],
    num_leaders: int,
    ceiling: float,
    margin: float,
    work_limit: int,
    cancel: _Ints,
    /,
) -> list[tuple[int, float, float, int, list[int], list[int], list[int]]]: ...

# (value, bytes of each stage, end of each stage)
def evaluate_mesh(
    ints: _Ints,
    reals: _Reals,
    layers: _Reals,
    sequence: _Ints,
    boundary: _Reals,
    layers_per_chunk: Sequence[int],
    full: Sequence[int],
    selective: Sequence[int],
    /,
) -> tuple[float, list[float], list[float]]: ...

# Step time of each row of cuts (n, chunks) and recomputation (n, stages); infinite: does not fit.
def evaluate_cuts(
    ints: _Ints,
    reals: _Reals,
    layers: _Reals,
    sequence: _Ints,
    boundary: _Reals,
    cuts: _Ints,
    full: _Ints,
    selective: _Ints,
    /,
) -> _Reals: ...

# (end of each stage, its operations as (pass, chunk, micro-batch, start))
def run_schedule(
    schedule: int,
    num_stages: int,
    chunks_per_stage: int,
    num_micro: int,
    forward: _Reals,
    backward: _Reals,
    weight: _Reals,
    link: _Reals,
    /,
) -> tuple[list[float], list[list[tuple[int, int, int, float]]]]: ...
def stage_ends(
    schedule: int,
    num_stages: int,
    chunks_per_stage: int,
    num_micro: int,
    forward: _Reals,
    backward: _Reals,
    weight: _Reals,
    link: _Reals,
    stages: int,
    turn: float,
    /,
) -> list[float]: ...
def held_vectors(
    schedule: int, num_stages: int, chunks_per_stage: int, num_micro: int, stage: int, /
) -> list[int]: ...

# -- assignment --

# (status, value, units, bound, nodes, multipliers, scale, witness bound, proof), the proof being
# (rows of int64 as in native/assignment/record.hpp, scale, target, whether of the costs 0)
def solve_assignment(
    costs: _Longs,
    loads: _Longs,
    capacities: _Longs,
    allowed: _Bytes,
    watch: Callable[[int, int | None, list[int] | None, int], bool],
    seed: int = 0,
    start: Sequence[int] | None = None,
    prove: bool = False,
    threads: int = 1,
    floor: int | None = None,
) -> tuple[
    int,
    int | None,
    list[int] | None,
    int,
    int,
    list[int],
    int,
    int,
    tuple[bytes, int, int, bool] | None,
]: ...

# The unit of each task, or an empty list. watch(value, units), both None unless better -> stop?
def solve_sparse_assignment(
    units: _Ints,
    costs: _Longs,
    loads: _Longs,
    capacities: _Longs,
    prices: _Reals,
    rounds: int,
    seed: int,
    watch: Callable[[int | None, list[int] | None], bool],
    /,
) -> list[int]: ...

# (status, value, units, bound, nodes, proof)
def solve_rows(
    costs: _Longs,
    loads: _Longs,
    capacities: _Longs,
    allowed: _Bytes,
    apart: Sequence[Sequence[int]],
    open: int,
    enough: int | None,
    watch: Callable[[int, int | None, int], bool],
    seed: int = 0,
    prove: bool = False,
    start: Sequence[int] | None = None,
    floor: int | None = None,
    cells: int = 2048,
    threads: int = 1,
) -> tuple[
    int,
    int | None,
    list[int] | None,
    int,
    int,
    tuple[bytes, int, int, int, bool, list[int], list[list[int]]] | None,
]: ...

# -- serving --

# (bound, cost)
def cheapest_cover(
    weights: _Reals, costs: _Reals, limits: _Ints, counts: _Ints, most_states: int, /
) -> tuple[float, float]: ...

# least costs by length; counts (lengths x lanes) gets how often each lane is taken
def cheapest_shares(
    cost: _Reals,
    cells: _Ints,
    region: _Ints,
    low: _Ints,
    high: _Ints,
    parts: int,
    counts: _Ints,
    /,
) -> list[float]: ...

# most and last (by free nodes of each kind) get the most layers and a stage they are reached by
def cover_lattice(
    layers: _Longs, nodes: _Longs, counts: _Longs, most: _Ints, last: _Ints, /
) -> None: ...

# (excess, layers, price, whole, size_price), the last three what is used
def cheapest_split(
    group: _Ints,
    weight: _Reals,
    length: _Reals,
    price: _Reals,
    whole: _Reals,
    size: _Ints,
    size_price: _Reals,
    cells: int,
    parts: int,
    inside: int,
    outside: int,
    room: _Reals,
    low: int,
    high: int,
    cover: float,
    begins_pay: bool,
    /,
) -> tuple[float, float, list[float], list[float], list[float]]: ...
def improve_placement(
    throughput: _Reals,
    links: _Reals,
    source: _Reals,
    sink: _Reals,
    num_layers: int,
    partial: bool,
    ranges: _Ints,
    seed: int,
    steps: int,
    target: float,
    hot: float,
    cold: float,
    seconds: float,
    moves: int,
    limit: float,
    step: _Reals,
    delay: _Reals,
    cancel: _Ints,
    /,
) -> tuple[float, int]: ...
def device_seconds(
    coefficients: _Reals, engine: _Longs, prompt: _Reals, sequences: _Reals, seconds: _Reals, /
) -> None: ...

class LoadRows:
    def __init__(
        self,
        chunk: _Reals,
        size: _Reals,
        time: _Reals,
        line: _Reals,
        batch_s: _Reals,
        free_s: _Reals,
        fresh: float,
        output: float,
        /,
    ) -> None: ...
    # (load, chunk by number, batch)
    def promising(
        self,
        ttft_s: float,
        tpot_s: float,
        engine: _Longs,
        full: _Longs,
        interval: _Longs,
        q: _Reals,
        allowed: _Bytes,
        below_s: _Reals,
        /,
    ) -> tuple[_Longs, _Longs, _Longs]: ...
    # `ttft_s`, `token_s` and `request_s` are written.
    def sharp(
        self,
        chunk: int,
        least_s: _Reals,
        most_s: _Reals,
        rounds: int,
        engine: _Longs,
        q: _Reals,
        fit: _Reals,
        ttft_s: _Reals,
        token_s: _Reals,
        request_s: _Reals,
        /,
    ) -> None: ...
    def lower_full_ends(
        self,
        ttft_s: float,
        tpot_s: float,
        engine: _Longs,
        left: _Reals,
        right: _Reals,
        left_s: _Reals,
        right_s: _Reals,
        chunk: _Longs,
        batch: _Longs,
        /,
    ) -> None: ...

def cheapest_offers(
    request_s: _Reals,
    offers: _Longs,
    fixed: _Reals,
    gain: float,
    latency: bool,
    most_s: float,
    cost: _Reals,
    which: _Longs,
    /,
) -> None: ...
def least_beside(
    request_s: _Reals,
    offers: _Longs,
    fixed: _Reals,
    gain: float,
    latency: bool,
    most_s: float,
    rest: _Reals,
    found: _Reals,
    /,
) -> None: ...
def join_shares(
    one: _Reals, other: _Reals, largest: bool, first: int, cost: _Reals, taken: _Longs, /
) -> None: ...

class WholeBound:
    def __init__(
        self, first: _Ints, serving: _Ints, load: _Reals, kinds: int, use: _Reals, /
    ) -> None: ...
    # (1: serves, 0: nothing does, -1: stopped; bound; counts; values of buckets; prices by kind;
    # prices of limits)
    def bound(
        self,
        low: _Reals,
        high: _Reals,
        price: _Reals,
        time: _Reals,
        unit: _Reals,
        limit: _Reals,
        cutoff: float,
        rounds: int,
        cancel: _Ints,
        /,
    ) -> tuple[int, float, _Reals, _Reals, _Reals, _Reals]: ...

# -- simulation of requests --

# (status, ticks of arrival, start, first token, hand-over and end, preemptions, hits, rank, second
# rank, busy ticks and iterations by engine, peak of blocks by rank, stretches); see
# native/simulate/requests.hpp.
RequestAnswer = tuple[
    int,
    _Longs,
    _Longs,
    _Longs,
    _Longs,
    _Longs,
    _Ints,
    _Ints,
    _Ints,
    _Ints,
    _Longs,
    _Longs,
    _Longs,
    _Longs,
]

def run_requests(
    kinds: _Longs,
    decode: Sequence[_Longs],
    prompt: Sequence[_Ints],
    count: Sequence[_Ints],
    grid: Sequence[_Reals],
    shared_decode: Sequence[_Longs],
    shared_prompt: Sequence[_Ints],
    shared_count: Sequence[_Ints],
    shared_grid: Sequence[_Reals],
    arrival: _Longs,
    input: _Ints,
    output: _Ints,
    cached: _Ints,
    shared: _Ints,
    path_start: _Longs,
    path: _Ints,
    node_blocks: _Ints,
    leaves_own: bool,
    clients: int,
    block_tokens: int,
    transfer: int,
    transfer_token: int,
    routing: int,
    record: bool,
    cancel: _Ints,
    /,
) -> RequestAnswer: ...

# -- training on mixed clusters --

# (status, value, replicas, shapes, shapes bounded, shapes solved, packings); a replica is
# (micro-batches, value, kinds, layers, full, selective), the last four by stage.
MixedAnswer = tuple[
    int,
    float,
    list[tuple[int, float, list[int], list[int], list[int], list[int]]],
    int,
    int,
    int,
    int,
]

class MixedSearch:
    def __init__(
        self,
        ints: _Ints,
        reals: _Reals,
        layers: _Reals,
        heads: _Reals,
        available: Sequence[int],
        domain: Sequence[int],
        links: _Reals,
        sequence: _Ints,
        boundary: _Reals,
        overlap: float,
        num_micro: int,
        most_stages: int,
        most_blocks: int,
        least_replicas: int,
        most_replicas: int,
        /,
    ) -> None: ...
    def inherit(self, other: MixedSearch, /) -> None: ...
    def prices(self) -> list[float]: ...
    def bound(self) -> float: ...
    def look(self, target: float, cancel: _Ints, /) -> MixedAnswer: ...
    def refute(self, target: float, most_solved: int, cancel: _Ints, /) -> MixedAnswer: ...
    def improve(self, target: float, step: float, cancel: _Ints, /) -> MixedAnswer: ...
