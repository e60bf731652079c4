"""model.py: states, reductions, links and totals of whole meshes, worked by hand.

Models are those of conftest.py; a llama layer has 15,204,352 matrix and 2,048 norm weights. The
cluster has 8 devices a node at 100 GB/s, nodes at 10 GB/s a device, no latency.
"""

from __future__ import annotations

from typing import get_args

import msgspec
import numpy as np
import pytest

from optalloc.cluster.catalog import device
from optalloc.cluster.load import load_cluster
from optalloc.cluster.topology import Cluster, Link, NodeGroup
from optalloc.cost.constants import Constants, read_constants, values
from optalloc.cost.flops import Convention, forward_flops
from optalloc.cost.meshes import Meshes
from optalloc.cost.model import CostModel
from optalloc.errors import InputError
from optalloc.model.graph import OpClass
from optalloc.model.load import load_model
from optalloc.model.lower import lower
from optalloc.model.spec import ModelSpec
from optalloc.workload import Training

WORK = Training(global_batch=64, sequence_length=2048)
PLAIN = msgspec.structs.replace(
    values(read_constants()),
    node_link_efficiency=1.0,
    network_efficiency=1.0,
    send_efficiency=1.0,
    memory_efficiency=1.0,
    expert_imbalance=1.0,
    optimizer_bytes=30.0,
    data_overlap=0.0,
    launch_s=0.0,
    layer_host_s=0.0,
    layer_gap_s=0.0,
    update_host_s=0.0,
    hop_s=0.0,
    workspace_bytes=0.0,
    fragmentation=1.0,
    fragmentation_expandable=1.0,
    memory_margin=0.0,
)
LAYER = 15_204_352 + 2_048
DEFAULTS = {
    "tp": 1,
    "sequence": 0,
    "cp": 1,
    "pp": 1,
    "dp": 1,
    "ep": 1,
    "micro_batch": 1,
    "zero_stage": 0,
    "shard_group": 0,
    "virtual_stages": 1,
    "schedule": 1,
    "recompute_rule": 0,
}


def _cluster(num_nodes: int = 2) -> Cluster:
    group = NodeGroup(
        device=device("h100-sxm"),
        count=num_nodes,
        devices=8,
        domain=8,
        node_link=Link(bandwidth_bytes_per_s=100e9, latency_s=0.0),
        network=Link(bandwidth_bytes_per_s=10e9, latency_s=0.0),
    )
    return Cluster(name="plain", nodes=(group,))


def _meshes(*rows: dict[str, int]) -> Meshes:
    full = [DEFAULTS | row for row in rows]
    return Meshes(**{name: np.array([row[name] for row in full]) for name in DEFAULTS})


def _cost(model: ModelSpec, work: Training = WORK, constants: Constants = PLAIN) -> CostModel:
    return CostModel(model, _cluster(), work, constants=constants)


def _field(model: ModelSpec, name: str, column: int, **mesh: int) -> float:
    return float(_cost(model).tables(_meshes(mesh)).field(name)[0, column])


# -- states -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("zero", "bytes_"), [(0, 18.0), (1, 9.0), (2, 6.0), (3, 4.5)])
def test_states_shrink_with_each_zero_stage(llama: ModelSpec, zero: int, bytes_: float) -> None:
    """Over dp = 4: 2+4+12; 6+12/4; 2+16/4; 18/4 bytes a parameter."""
    assert _field(llama, "state_bytes", 1, dp=4, zero_stage=zero) == bytes_ * LAYER


def test_context_parallel_ranks_join_the_shard_group(llama: ModelSpec) -> None:
    """dp = 2 and cp = 2 shard over four."""
    assert _field(llama, "state_bytes", 1, dp=2, cp=2, zero_stage=3) == 4.5 * LAYER


def test_experts_shard_over_those_that_hold_the_same(moe: ModelSpec) -> None:
    """dp = 4, ep = 2: half of 25,165,824 expert weights, sharded over two: 6 + 12/2 bytes.

    The rest (attention, router, norms: 2,631,680) shards over four: 9 bytes.
    """
    expected = 12.0 * 12_582_912 + 9.0 * 2_631_680
    assert _field(moe, "state_bytes", 1, dp=4, ep=2, zero_stage=1) == expected


def test_experts_spread_over_every_replica_do_not_shard(moe: ModelSpec) -> None:
    """dp = 4, ep = 4: a quarter of the experts at 18 bytes."""
    expected = 18.0 * 6_291_456 + 9.0 * 2_631_680
    assert _field(moe, "state_bytes", 1, dp=4, ep=4, zero_stage=1) == expected


def test_hybrid_sharding_shards_over_its_group(llama: ModelSpec) -> None:
    """dp = 16 in groups of 8: 18/8 bytes."""
    state = _field(llama, "state_bytes", 1, dp=16, zero_stage=3, shard_group=8)
    assert state == 2.25 * LAYER


def test_one_stage_holds_a_tied_matrix_once(gpt: ModelSpec) -> None:
    """Alone, the head owns 1024 norm weights; on two stages also the matrix of 32,768,000."""
    assert _field(gpt, "state_bytes", 2) == 18.0 * 1_024
    assert _field(gpt, "state_bytes", 2, pp=2) == 18.0 * (32_768_000 + 1_024)
    assert _field(gpt, "reduce_s", 2, dp=2) < 1e-3 * _field(gpt, "reduce_s", 0, dp=2)


def test_zero_3_sets_gathered_weights_aside(llama: ModelSpec) -> None:
    """Of two layers, or a layer and the larger end: (15,206,400 + 32,769,024) x 2 bytes."""
    tables = _cost(llama).tables(_meshes({"dp": 4, "zero_stage": 3}, {"dp": 4, "zero_stage": 2}))
    free = tables.real("capacity_bytes")
    assert free[1] - free[0] == 2.0 * (LAYER + 32_769_024)
    assert free[1] == device("h100-sxm").memory_bytes


def test_frozen_weights_cost_their_weights_alone(llama: ModelSpec) -> None:
    """2 bytes for 15,206,400 frozen and 18 for 303,104 of the adapters; reductions of those."""
    work = msgspec.structs.replace(WORK, lora_rank=16)
    tables = _cost(llama, work).tables(_meshes({"dp": 4}))
    assert tables.field("state_bytes")[0, 1] == 2.0 * LAYER + 18.0 * 303_104
    whole = _cost(llama).tables(_meshes({"dp": 4}))
    share = tables.field("reduce_s")[0, 1] / whole.field("reduce_s")[0, 1]
    assert share == pytest.approx(303_104 / LAYER, rel=1e-9)


def test_sequence_parallelism_gathers_its_inputs(llama: ModelSpec) -> None:
    """The whole input of a block and its gradient: 2 x 2 x 2048 x 1024 bytes."""
    meshes = _meshes({"tp": 2, "sequence": 1}, {"tp": 2})
    free = _cost(llama).tables(meshes).real("capacity_bytes")
    assert free[1] - free[0] == 8_388_608


def test_fragmentation_and_margin_take_from_the_room(llama: ModelSpec) -> None:
    """5 % kept free and 1 GB outside; what is allocated counts 1.25 times."""
    constants = msgspec.structs.replace(
        PLAIN, fragmentation_expandable=1.25, memory_margin=0.05, workspace_bytes=1e9
    )
    memory = 0.95 * device("h100-sxm").memory_bytes
    tables = _cost(llama, constants=constants).tables(_meshes({}))
    assert tables.real("capacity_bytes")[0] == pytest.approx(memory - 1e9)
    assert tables.field("state_bytes")[0, 1] == 1.25 * 18.0 * LAYER


def test_deepspeeds_pipeline_keeps_a_stages_output(gpt: ModelSpec) -> None:
    """pp = 2 of L layers: 2 / L inputs more a layer."""
    work = msgspec.structs.replace(WORK, framework="megatron-deepspeed")
    cost = _cost(gpt, work, msgspec.structs.replace(PLAIN, fragmentation=1.0))
    tables = cost.tables(_meshes({}, {"pp": 2}))
    one, two = tables.field("held_full_bytes")[:, 1]
    assert two == pytest.approx(one * (1.0 + 2.0 / cost.num_layers))


# -- reduction, gathering, update -----------------------------------------------------------------


def test_replicas_all_reduce_their_gradients(llama: ModelSpec) -> None:
    """dp = 8 in one node: 2 x 7/8 of 60,825,600 bytes at 100 GB/s."""
    assert _field(llama, "reduce_s", 1, dp=8) == pytest.approx(1.0644e-3, rel=1e-4)


def test_zero_1_scatters_gradients_and_gathers_weights(llama: ModelSpec) -> None:
    """7/8 of 60.8 MB of fp32 gradients and of 30.4 MB of 16-bit weights."""
    mesh = {"dp": 8, "zero_stage": 1}
    assert _field(llama, "reduce_s", 1, **mesh) == pytest.approx(0.53222e-3, rel=1e-4)
    assert _field(llama, "gather_s", 1, **mesh) == pytest.approx(0.26611e-3, rel=1e-4)


def test_zero_2_scatters_for_every_micro_batch(llama: ModelSpec) -> None:
    """Nothing is left to reduce at the end; the backward grows by 0.532 ms without overlap."""
    plain = _field(llama, "backward_s", 1, dp=8)
    assert _field(llama, "reduce_s", 1, dp=8, zero_stage=2) == 0.0
    more = _field(llama, "backward_s", 1, dp=8, zero_stage=2) - plain
    assert more == pytest.approx(0.53222e-3, rel=1e-4)


def test_zero_3_gathers_for_every_pass(llama: ModelSpec) -> None:
    """Forward 0.266 ms; backward 0.266 + 0.532 ms; no gather after the step."""
    more = [
        _field(llama, name, 1, dp=8, zero_stage=3) - _field(llama, name, 1, dp=8)
        for name in ("forward_s", "backward_s")
    ]
    assert more == pytest.approx([0.26611e-3, 0.79834e-3], rel=1e-4)
    assert _field(llama, "gather_s", 1, dp=8, zero_stage=3) == 0.0


def test_a_long_enough_pass_hides_the_gathers(llama: ModelSpec) -> None:
    """With full overlap and 32 sequences a micro-batch ZeRO-3 adds nothing."""
    cost = _cost(llama, constants=msgspec.structs.replace(PLAIN, data_overlap=1.0))
    mesh = {"dp": 2, "micro_batch": 32}
    tables = cost.tables(_meshes(mesh, mesh | {"zero_stage": 3}))
    forward = tables.field("forward_s")[:, 1]
    assert forward[0] == forward[1]


def test_hybrid_sharding_reduces_shards_between_groups_once(llama: ModelSpec) -> None:
    """dp = 16 in groups of 8: an eighth of 60.8 MB all-reduced between two nodes at 10 GB/s.

    Inside the node 7/8 of the gradients are scattered for every micro-batch.
    """
    mesh = {"dp": 16, "shard_group": 8}
    assert _field(llama, "reduce_s", 1, zero_stage=2, **mesh) == pytest.approx(0.76032e-3)
    more = _field(llama, "backward_s", 1, zero_stage=2, **mesh) - _field(
        llama, "backward_s", 1, dp=16
    )
    assert more == pytest.approx(0.53222e-3, rel=1e-4)
    both = _field(llama, "reduce_s", 1, zero_stage=1, **mesh)
    assert both == pytest.approx(0.76032e-3 + 0.53222e-3, rel=1e-4)


def test_experts_reduce_among_their_copies(moe: ModelSpec) -> None:
    """dp = 4, ep = 4: one copy of each expert, so only 2,631,680 other weights are reduced.

    2 x 3/4 of 10,526,720 bytes at 100 GB/s.
    """
    assert _field(moe, "reduce_s", 1, dp=4, ep=4) == pytest.approx(0.157901e-3, rel=1e-4)


def test_copies_of_experts_lie_a_node_apart(moe: ModelSpec) -> None:
    """dp = 16, ep = 8: 3,145,728 expert weights all-reduced between two nodes.

    12,582,912 bytes at 10 GB/s are 1.2583 ms. The rest over 16 ranks: 2 x 15/16 x 10,526,720 bytes
    at 80 GB/s, eight rails, are 0.24672 ms.
    """
    assert _field(moe, "reduce_s", 1, dp=16, ep=8) == pytest.approx(1.50501e-3, rel=1e-4)


def test_the_optimizer_moves_30_bytes_a_parameter(llama: ModelSpec) -> None:
    """15,206,400 x 30 bytes at 3.35 TB/s; a quarter of it with ZeRO over four."""
    assert _field(llama, "update_s", 1) == pytest.approx(136.177e-6, rel=1e-4)
    assert _field(llama, "update_s", 1, dp=4, zero_stage=1) == pytest.approx(34.044e-6, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "bytes_"),
    [({"gradient_dtype": "bf16"}, 28.0), ({"optimizer": "sgd"}, 22.0), ({"dtype": "fp32"}, 28.0)],
)
def test_other_layouts_move_other_bytes(
    llama: ModelSpec, changes: dict[str, str], bytes_: float
) -> None:
    """2+24+2; 4+16+2; gradient 4, weights 8, moments 16."""
    work = msgspec.convert(msgspec.to_builtins(WORK) | changes, Training)
    update = _cost(llama, work).tables(_meshes({})).field("update_s")[0, 1]
    assert update == pytest.approx(LAYER * bytes_ / 3.35e12)


def test_tied_ends_of_a_pipeline_reduce_their_gradient(gpt: ModelSpec) -> None:
    """pp = 2 of 8 devices: 131,072,000 bytes between two nodes at 10 GB/s; none without a tie."""
    mesh = _meshes({"tp": 8, "pp": 2})
    assert _cost(gpt).tables(mesh).real("tied_s")[0] == pytest.approx(1.6384e-3)


# -- links, logits, totals ------------------------------------------------------------------------


def test_a_boundary_carries_one_micro_batch(llama: ModelSpec) -> None:
    """2 s h = 4 MiB: 41.94 us in a node, ten times that between nodes; sharded with sp."""
    mesh = {"tp": 2, "pp": 2, "micro_batch": 1}
    tables = _cost(llama).tables(_meshes(mesh, mesh | {"sequence": 1}, mesh | {"micro_batch": 2}))
    near, far = tables.real("transfer_near_s"), tables.real("transfer_far_s")
    assert near == pytest.approx([41.943e-6, 20.972e-6, 83.886e-6], rel=1e-4)
    assert far == pytest.approx(10 * near)


def test_one_message_has_a_rate_of_its_own(llama: ModelSpec) -> None:
    """4 MiB between nodes at half of 10 GB/s, however fast collectives are; 41.94 us in a node."""
    constants = msgspec.structs.replace(PLAIN, send_efficiency=0.5, network_efficiency=0.1)
    tables = _cost(llama, constants=constants).tables(_meshes({"tp": 2, "pp": 2}))
    assert tables.real("transfer_near_s")[0] == pytest.approx(41.943e-6, rel=1e-4)
    assert tables.real("transfer_far_s")[0] == pytest.approx(838.86e-6, rel=1e-4)


def test_ranks_scatter_what_all_of_them_hold(llama: ModelSpec) -> None:
    """Half of 4 MiB over the boundary, then half of it from the other rank of the node."""
    work = msgspec.structs.replace(WORK, framework="megatron-lm")
    mesh = {"tp": 2, "pp": 2, "micro_batch": 1}
    tables = _cost(llama, work).tables(_meshes(mesh))
    half = 20.972e-6
    gathered = float(tables.real("transfer_near_s")[0]) - half
    assert gathered == pytest.approx(half, rel=0.2)  # and the latency of one hop
    assert gathered >= half * (1.0 - 1e-4)
    assert tables.real("transfer_far_s")[0] == pytest.approx(10 * half + gathered, rel=1e-4)


def test_the_decoder_hands_on_the_encoder_output(translator: ModelSpec) -> None:
    """Source 2048, target 512: 1 in the encoder, 1.25 in the decoder, 0.25 before the head."""
    work = msgspec.structs.replace(WORK, decoder_sequence_length=512)
    boundary = _cost(translator, work).boundary
    assert boundary.tolist() == [1.0, 1.0, 1.0, 1.25, 1.25, 0.25]


def test_logits_take_six_bytes(llama: ModelSpec) -> None:
    """2048 x 32000 x 6 bytes, divided by tp and cp."""
    constants = msgspec.structs.replace(PLAIN, logit_bytes=6.0)
    cost = _cost(llama, constants=constants)
    logits = cost.tables(_meshes({}, {"tp": 2, "cp": 4})).real("logits_bytes")
    assert logits.tolist() == [393_216_000, 49_152_000]


def test_model_flops_of_a_step(llama: ModelSpec) -> None:
    """A token's forward: 2 x (2 x 15,204,352 + 32,768,000) + 2 x 4 x 8 x 128 x 1024.5.

    134,746,112 FLOPs, three times that with the backward, for 64 x 2048 tokens.
    """
    assert _cost(llama).model_flops_per_step == 3 * 134_746_112 * 64 * 2048


def test_only_visited_experts_compute(moe: ModelSpec) -> None:
    """Two of eight: 2 x (2 x (2,621,440 + 8,192 + 6,291,456) + 32,768,000) + 8,392,704 a token."""
    assert _cost(moe).model_flops_per_step == 3 * 109_613_056 * 64 * 2048


@pytest.mark.parametrize(
    ("name", "sequence_length", "published_tflop_per_token"),
    [
        (
            "llama-3.1-405b",
            8192,
            2.535e12,
        ),  # 6 x 405.9B less the embedding, 126 layers of attention
        ("deepseek-v3", 4096, 0.250e12),
    ],
)
def test_flops_a_token_agree_with_published_figures(
    name: str, sequence_length: int, published_tflop_per_token: float
) -> None:
    """Llama 3 (2024): 3.8e25 FLOPs over 15.6T tokens are 2.44e12, of 6 N alone.

    DeepSeek-V3 (2024), table 10: 2048 devices reach 385 TFLOP/s causal at 272.8B tokens a day:
    2048 x 385e12 x 86400 / 272.8e9 = 0.2497e12 a token.
    """
    work = Training(global_batch=1, sequence_length=sequence_length)
    flops = _cost(load_model(name), work).model_flops_per_step / sequence_length
    assert flops == pytest.approx(published_tflop_per_token, rel=0.03)


def test_a_mixed_cluster_is_refused(llama: ModelSpec) -> None:
    """Names the kinds of device and what to do."""
    with pytest.raises(InputError, match=r"h100-sxm, a100-sxm-80g.*uniform part by itself"):
        CostModel(llama, load_cluster("8xh100-sxm+8xa100-sxm-80g"), WORK)


def test_flops_of_a_layer_in_both_conventions(llama: ModelSpec) -> None:
    """A token passes 15,204,352 weights, and sees 1,024.5 of 2,048 positions, or all of them.

    Scores and values of 8 heads of 128 take 2 * 8 * 2 * 128 FLOPs a token and position.
    """
    graph = lower(llama)
    matrices = 2 * 2048 * 15_204_352
    conventions: dict[Convention, float] = {"causal": 1024.5, "square": 2048.0}
    for convention, seen in conventions.items():
        whole, core = forward_flops(graph, WORK, convention)
        assert core[1] == 2048 * 2 * 8 * 2 * 128 * seen
        assert whole[1] == matrices + core[1]
        assert whole[-1] == 2 * 2048 * 1024 * 32000
        assert (whole[0], core[-1]) == (0.0, 0.0)


def test_leaving_every_class_out_leaves_nothing(llama: ModelSpec, moe: ModelSpec) -> None:
    """Exchanges, the host's floor and the seven classes of operations are all that takes time."""
    for model in (llama, moe):
        cost = CostModel(model, _cluster(), WORK)
        classes = get_args(OpClass)
        table, _ = cost.layer_costs(
            _meshes({"tp": 2, "sequence": 1}), ("tp", "cp", "ep", "host", *classes)
        )
        assert not table.forward_s.any()
        assert not table.backward_s.any()
        assert not table.weight_s.any()
