"""What is drawn has the stated means; traces are read; bad figures are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from optalloc.errors import InputError
from optalloc.simulate.requests.arrivals import Bursts, ClosedLoop, Poisson
from optalloc.simulate.requests.lengths import Empirical, Fixed, Lengths, Lognormal, Uniform
from optalloc.simulate.requests.load import Load, draw_requests, fixed_load, make_requests
from optalloc.simulate.requests.step_times import step_times
from optalloc.simulate.requests.traces import read_trace

MANY = 100_000


def test_poisson_arrivals_have_their_rate_and_no_memory() -> None:
    """Gaps of 1/5 s in the mean, with a coefficient of variation of 1."""
    gaps = np.diff(draw_requests(fixed_load(Poisson(5.0), 10, 1), MANY).arrival_s)
    assert gaps.mean() == pytest.approx(0.2, rel=0.02)
    assert gaps.std() == pytest.approx(0.2, rel=0.02)


def test_bursts_keep_the_mean_rate_and_come_in_clumps() -> None:
    """Counts in windows of 2 s vary by far more than their mean, as Poisson counts would."""
    arrival_s = draw_requests(fixed_load(Bursts(5.0), 10, 1), MANY).arrival_s
    assert MANY / arrival_s[-1] == pytest.approx(5.0, rel=0.05)
    counts = np.bincount((arrival_s / 2.0).astype(int))
    assert counts.var() / counts.mean() > 3.0


def test_equal_seeds_draw_the_same_requests_at_every_rate() -> None:
    """Only time is scaled."""
    load = [
        Load(arrivals=arrivals, input=Uniform(10, 90), output=Lognormal(20.0, 1.0))
        for arrivals in (Bursts(2.0), Bursts(4.0))
    ]
    slow, fast = (draw_requests(one, 100, seed=3) for one in load)
    assert slow.arrival_s == pytest.approx(2.0 * fast.arrival_s)
    assert (slow.input_tokens == fast.input_tokens).all()
    assert (slow.output_tokens == fast.output_tokens).all()
    assert (slow.input_tokens != draw_requests(load[0], 100, seed=4).input_tokens).any()


@pytest.mark.parametrize(
    ("lengths", "mean", "low", "high"),
    [
        (Fixed(7), 7.0, 7, 7),
        (Uniform.around(100, 0.2), 100.0, 80, 120),
        (Lognormal(100.0, 0.5), 100.5, 1, 10_000),
        (Empirical((5, 5, 20)), 10.0, 5, 20),
    ],
)
def test_lengths_have_their_means(lengths: Lengths, mean: float, low: int, high: int) -> None:
    """Log-normal lengths are rounded up, half a token in the mean."""
    drawn = lengths.draw(MANY, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(mean, rel=0.01)
    assert low <= drawn.min() <= drawn.max() <= high


def test_the_cached_share_leaves_a_token_to_read() -> None:
    """0.9 of 10 tokens are 9, and of 1 token none."""
    lengths = np.array([10, 1])
    requests = make_requests(np.zeros(2), lengths, lengths, cached_share=0.9)
    assert requests.cached_tokens.tolist() == [9, 0]


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (fixed_load(Poisson(0.0), 10, 1), "rate is 0 requests/s"),
        (fixed_load(Poisson(1.0), 0, 1), "below one token"),
        (fixed_load(ClosedLoop(0), 10, 1), "closed loop of 0 clients"),
        (Load(arrivals=Poisson(1.0), input=Fixed(8), output=Fixed(1), prefix_tokens=8), "all of"),
        (Load(arrivals=Poisson(1.0), input=Fixed(8), output=Fixed(1), cached_share=1.0), "share"),
    ],
)
def test_figures_that_make_no_sense_are_refused(load: Load, words: str) -> None:
    with pytest.raises(InputError, match=words):
        draw_requests(load, 10)


def test_bursts_that_hold_more_than_all_requests_are_refused() -> None:
    """Four times the rate for half of the time is twice the mean."""
    with pytest.raises(InputError, match=r"4 times the rate cannot take 0\.5 of the time"):
        Bursts(1.0, peak=4.0, share=0.5)


def test_a_trace_is_read_sorted_and_from_its_beginning(tmp_path: Path) -> None:
    """Columns by the names of a published trace, two requests out of order."""
    path = tmp_path / "trace.csv"
    path.write_text(
        "arrived_at,num_prefill_tokens,num_decode_tokens\n12.5,100,20\n10.0,50,10\n13,7,3\n"
    )
    requests = read_trace(path)
    assert requests.arrival_s.tolist() == [0.0, 2.5, 3.0]
    assert requests.input_tokens.tolist() == [50, 100, 7]
    assert requests.output_tokens.tolist() == [10, 20, 3]
    assert len(read_trace(path, num_requests=2)) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "azure.csv",
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
            "2023-11-16 18:15:48.1805900,396,109\n",
        ),
        (
            "mooncake.jsonl",
            '{"timestamp": 0, "input_length": 374, "output_length": 44, "hash_ids": [1]}\n'
            '{"timestamp": 1500, "input_length": 396, "output_length": 109, "hash_ids": [1]}\n',
        ),
        (
            "burst.csv",
            "Timestamp,Model,Request tokens,Response tokens\n5,a,374,44\n6.5,b,396,109\n",
        ),
    ],
)
def test_published_traces_are_read_as_they_are(tmp_path: Path, name: str, text: str) -> None:
    """Dates with seven digits of a second, milliseconds, seconds: 1.5 s apart in each."""
    (tmp_path / name).write_text(text)
    requests = read_trace(tmp_path / name)
    assert requests.arrival_s == pytest.approx([0.0, 1.5])
    assert requests.input_tokens.tolist() == [374, 396]
    assert requests.output_tokens.tolist() == [44, 109]


def test_groups_of_a_trace_share_prefixes(tmp_path: Path) -> None:
    """JSON lines; a request without a group shares nothing."""
    path = tmp_path / "trace.jsonl"
    names = ("arrival_s", "input_tokens", "output_tokens", "group", "prefix_tokens")
    rows = [(1, 50, 5, "b", 32), (2, 60, 5, "", 0), (3, 70, 5, "b", 32)]
    path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    requests = read_trace(path)
    assert requests.group.tolist() == [0, -1, 0]
    assert requests.prefix_tokens.tolist() == [32]


def test_ids_of_blocks_are_read_in_order_of_arrival(tmp_path: Path) -> None:
    """Numbers of any size and words; a request without ids shares nothing."""
    rows = [
        {"timestamp": 20, "input_length": 600, "output_length": 5, "hash_ids": [2**64, 7]},
        {"timestamp": 10, "input_length": 1500, "output_length": 5, "hash_ids": [2**64, "f0", 3]},
        {"timestamp": 30, "input_length": 100, "output_length": 5},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    hashes = read_trace(path).hashes
    assert hashes is not None
    assert hashes.start.tolist() == [0, 3, 5, 5]
    assert hashes.ids[3] == hashes.ids[0] != hashes.ids[4]
    assert hashes.block_tokens == 512
    assert len(read_trace(path, num_requests=1).hashes.ids) == 3  # type: ignore[union-attr]


def test_bailian_traces_have_seconds_and_small_blocks(tmp_path: Path) -> None:
    """A request of the published form: 521 tokens are 33 blocks of 16."""
    row: dict[str, object] = {
        "chat_id": 159,
        "parent_chat_id": 55,
        "timestamp": 61.5,
        "input_length": 521,
    }
    row |= {"output_length": 132, "type": "text", "turn": 2, "hash_ids": list(range(33))}
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"timestamp": 63.0}))
    requests = read_trace(path)
    assert requests.arrival_s.tolist() == [0.0, 1.5]
    assert requests.hashes is not None
    assert requests.hashes.block_tokens == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"hash_ids": [1, 2, 3]},
            "3 hash_ids for a prompt of 600 tokens, which are 2 blocks.*line 2",
        ),
        ({"hash_ids": "1, 2"}, "hash_ids is '1, 2', no list of whole numbers.*line 2"),
        ({"hash_ids": [1, 2.5]}, r"hash_ids is \[1, 2.5\], no list.*line 2"),
        ({"hash_ids": [1, None]}, r"hash_ids is \[1, None\], no list.*line 2"),
        ({"output_length": 0}, "output_length is 0.*line 2.*at least 1"),
        ({"input_length": 2.5}, "input_length is 2.5.*line 2"),
        ({"timestamp": None}, "timestamp is None.*line 2"),
    ],
)
def test_a_broken_line_of_ids_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    good = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | change))
    with pytest.raises(InputError, match=words):
        read_trace(path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '\n\n{"arrival_s": 1', "not valid JSON.*line 3.*correct or remove that line"),
        ("a.jsonl", '{"arrival_s": 1}\n\n7\n', "no JSON object.*line 3"),
        ("a.json", "[{}]", "one JSON list.*one object a line"),
        ("a.json", '{"input_tokens": 1, "output_tokens": 1}', "no column 'arrival_s'"),
    ],
)
def test_files_that_are_no_json_lines_are_refused(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    """Empty lines count; the ending of the name does not."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_trace(tmp_path / name)


def test_no_requests_are_no_trace(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("arrival_s,input_tokens,output_tokens\n1,2,3\n")
    with pytest.raises(InputError, match="0 requests are to be read"):
        read_trace(tmp_path / "a.csv", num_requests=0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time,input_tokens,output_tokens\n1,2,3\n", "no column 'arrival_s'"),
        ("arrival_s,input_tokens,output_tokens\n1,2,3\n2,x,3\n", "input_tokens is 'x'.*line 3"),
        ("arrival_s,input_tokens,output_tokens\n1,2,0\n", "output_tokens is '0'.*line 2"),
        ("arrival_s,input_tokens,output_tokens\n", "no requests"),
        ("arrival_s,input_tokens,output_tokens\n1,1e30,3\n", "input_tokens is '1e30'.*line 2"),
        ("arrival_s,input_tokens,output_tokens\nnan,1,3\n", "arrival_s is 'nan'.*line 2"),
    ],
)
def test_a_broken_trace_is_refused_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_trace(path)


def test_the_table_interpolates_between_its_nodes() -> None:
    """A function that is linear in both is met at every node, and nodes end at the limits."""
    table = step_times(lambda p, s: 1.0 + 2.0 * p + 3.0 * s, chunk_tokens=100, max_batch=30)
    assert table.decode_s[1:] == pytest.approx(1.0 + 3.0 * np.arange(1, 31))
    assert (table.chunk_tokens, table.max_batch) == (100, 30)
    assert (table.prompt_tokens[0], table.sequences[0], table.sequences[-1]) == (1, 0, 30)
    expected = 1.0 + 2.0 * table.prompt_tokens[:, None] + 3.0 * table.sequences[None, :]
    assert table.mixed_s == pytest.approx(expected)


def test_an_iteration_that_takes_no_time_is_refused() -> None:
    with pytest.raises(InputError, match="takes no time"):
        step_times(lambda p, s: 0.0 * (p + s), chunk_tokens=8, max_batch=8)
