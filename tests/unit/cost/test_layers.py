"""layers.py: stored bytes, parameters, FLOPs and communication of one layer, worked by hand.

Models are those of conftest.py: h = 1024, a = 8 query and k = 2 key heads of g = 128, f = 4096;
s = 2048 tokens, one sequence a micro-batch.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from optalloc.cluster.catalog import device
from optalloc.cluster.topology import Level
from optalloc.cost.collective import Network
from optalloc.cost.compute import Unit
from optalloc.cost.constants import read_constants, values
from optalloc.cost.flops import attended, tokens_of
from optalloc.cost.keys import Keys
from optalloc.cost.layers import LayerTable, layer_table
from optalloc.model.graph import Op
from optalloc.model.lower import lower
from optalloc.model.spec import Experts, ModelSpec
from optalloc.workload import Training

WORK = Training(global_batch=8, sequence_length=2048)
CONSTANTS = msgspec.structs.replace(
    values(read_constants()),
    expert_imbalance=1.0,
    context_overlap=0.0,
    layer_host_s=0.0,
    layer_gap_s=0.0,
    backward_host=1.0,
    tp_host_s=0.0,
    expert_host_s=0.0,
    router_host_s=0.0,
    expert_overlap=0.0,
    fallback_host_s=0.0,
    tp_overlap=0.0,
    collective_s=0.0,
    micro_s=0.0,
)
UNIT = Unit.of(device("h100-sxm"), "bf16", CONSTANTS)


def _network(bandwidth_bytes_per_s: float) -> Network:
    level = Level(
        name="node", num_devices=64, bandwidth_bytes_per_s=bandwidth_bytes_per_s, latency_s=0.0
    )
    return Network((level,))


MESH = {"tp": 1, "sequence": 0, "cp": 1, "ep": 1, "micro_batch": 1}


def _table(
    model: ModelSpec,
    work: Training = WORK,
    bandwidth_bytes_per_s: float = 100e9,
    /,
    **mesh: int,
) -> LayerTable:
    keys = Keys(**{name: np.array([value]) for name, value in (MESH | mesh).items()})
    return layer_table(lower(model), work, UNIT, _network(bandwidth_bytes_per_s), keys)


def _sent_us(model: ModelSpec, column: int, **mesh: int) -> tuple[float, float]:
    """Communication of one layer, forward and backward, in microseconds at 100 GB/s."""
    slow = _table(model, **mesh)
    fast = _table(model, WORK, 1e30, **mesh)
    forward = slow.forward_s - fast.forward_s
    backward = slow.backward_s - fast.backward_s
    return 1e6 * float(forward[0, column]), 1e6 * float(backward[0, column])


# -- stored activations --------------------------------------------------------------------------


def test_a_gated_layer_stores_norms_attention_and_mlp(llama: ModelSpec) -> None:
    """s (8h + 4g(a+k) + 6f) = 2048 (8192 + 5120 + 24576), and s 4a = 65536 of log-sum-exp."""
    assert _table(llama).held_bytes[0, 1] == 77_594_624 + 65_536


def test_sequence_parallelism_divides_all_of_it(llama: ModelSpec) -> None:
    """Half of the above on two ranks."""
    assert _table(llama, tp=2, sequence=1).held_bytes[0, 1] == 38_830_080


def test_without_sequence_parallelism_norms_are_repeated(llama: ModelSpec) -> None:
    """2048 (8192 + (5120 + 24576)/2) + 32768."""
    assert _table(llama, tp=2).held_bytes[0, 1] == 47_218_688


def test_key_heads_are_repeated_beyond_their_number(llama: ModelSpec) -> None:
    """tp = 8, k = 2: 2048 (8192/8 + 4 x 128 (1 + 1) + 24576/8) + 8192."""
    assert _table(llama, tp=8, sequence=1).held_bytes[0, 1] == 10_493_952


def test_context_parallelism_divides_the_tokens(llama: ModelSpec) -> None:
    """A quarter on four ranks."""
    assert _table(llama, cp=4).held_bytes[0, 1] == (77_594_624 + 65_536) / 4


def test_a_gpt_layer_stores_32_bytes_a_value(gpt: ModelSpec) -> None:
    """34 s b h less two dropout masks: 32 x 2048 x 1024; fused core 4 a s."""
    assert _table(gpt).held_bytes[0, 1] == 67_108_864 + 65_536


def test_an_unfused_core_stores_the_softmax(gpt: ModelSpec) -> None:
    """2 a s^2 = 2 x 8 x 2048^2 bytes, all of it saved by selective recomputation."""
    unfused = msgspec.structs.replace(WORK, attention_kernel="unfused")
    table = _table(gpt, unfused)
    assert table.core_bytes[0, 1] == 67_108_864
    assert table.held_bytes[0, 1] == 2 * 67_108_864


def test_full_recomputation_keeps_the_input(llama: ModelSpec) -> None:
    """2 s h = 4 MiB; half of it where sequence parallelism shards the input."""
    assert _table(llama).input_bytes[0, 1] == 4_194_304
    assert _table(llama, tp=2).input_bytes[0, 1] == 4_194_304
    assert _table(llama, tp=2, sequence=1).input_bytes[0, 1] == 2_097_152


def test_experts_store_every_copy_of_a_token(moe: ModelSpec) -> None:
    """2048 (8192 + 5120 + 2 (2h + 6 f_e)) with 2h + 6 f_e = 8192, and 65536."""
    assert _table(moe, ep=4).held_bytes[0, 1] == 60_817_408 + 65_536


def test_dropout_stores_its_masks(gpt: ModelSpec) -> None:
    """34 s b h + 5 a s^2: two masks of a byte, and in the core a mask and what it leaves."""
    work = msgspec.structs.replace(WORK, attention_kernel="unfused", dropout=True)
    table = _table(gpt, work)
    assert table.held_bytes[0, 1] == 71_303_168 + 167_772_160
    assert table.core_bytes[0, 1] == 167_772_160
    assert table.held_bytes[0, 0] == 2048 * 1024  # behind the embedding


def test_fp8_keeps_the_inputs_of_products_in_8_bits(llama: ModelSpec) -> None:
    """2048 (4h + 2h norms, 4g(a+k) + ag attention, 4f + f MLP) = 2048 x 32768, and 65536."""
    work = msgspec.structs.replace(WORK, dtype="fp8")
    assert _table(llama, work).held_bytes[0, 1] == 67_108_864 + 65_536
    cast = msgspec.structs.replace(work, framework="fsdp2")  # casts what it stores in 16 bits
    assert _table(llama, cast).held_bytes[0, 1] == 77_594_624 + 65_536


def test_unfused_activations_store_every_step(llama: ModelSpec, gpt: ModelSpec) -> None:
    """SiLU's output, f of 2 bytes; 14 f for GELU from its parts in fp32."""
    work = msgspec.structs.replace(WORK, activation_kernel="unfused")
    more = _table(llama, work).held_bytes - _table(llama).held_bytes
    assert more[0, 1] == 2048 * 2 * 4096
    more = _table(gpt, work).held_bytes - _table(gpt).held_bytes
    assert more[0, 1] == 2048 * 2 * 14 * 4096


def test_fsdp_recomputes_operator_by_operator(llama: ModelSpec) -> None:
    """Kept: input h, q ag, v kg, core ag, gate f, output h: 2048 x 2 x 8448 bytes.

    Repeated: keys, the output projection and one half of the gated pair, and what is not a product.
    """
    work = msgspec.structs.replace(WORK, framework="fsdp2")
    table = _table(llama, work)
    assert table.held_bytes[0, 1] - table.core_bytes[0, 1] == 34_603_008
    assert 0.2 * table.forward_s[0, 1] < table.core_s[0, 1] < 0.6 * table.forward_s[0, 1]


def test_adapters_train_beside_frozen_matrices(llama: ModelSpec) -> None:
    """Rank 16: 16 (h + 1536 + 1024 + h + h + 8192 + 4096 + h) = 303,104."""
    work = msgspec.structs.replace(WORK, lora_rank=16)
    frozen, full = _table(llama, work), _table(llama)
    assert frozen.trained_dense[0].tolist() == [0.0, 303_104.0, 0.0]
    assert frozen.dense_parameters[0, 1] == full.dense_parameters[0, 1] + 303_104
    assert frozen.weight_s[0, 1] < full.weight_s[0, 1]
    assert frozen.weight_s[0, 2] == 0.0


def test_narrow_adapters_train_beside_queries_keys_and_values(llama: ModelSpec) -> None:
    """Rank 16: 16 (h + 1536) = 40,960."""
    work = msgspec.structs.replace(WORK, lora_rank=16, lora_modules="qkv")
    assert _table(llama, work).trained_dense[0].tolist() == [0.0, 40_960.0, 0.0]


# -- parameters ----------------------------------------------------------------------------------


def test_tensor_parallelism_divides_matrices_but_not_norms(llama: ModelSpec) -> None:
    """Attention 2,621,440 and MLP 12,582,912 halve; 2,048 norm weights do not."""
    assert _table(llama, tp=2).dense_parameters[0, 1] == 7_602_176 + 2_048


def test_repeated_key_heads_repeat_their_weights(llama: ModelSpec) -> None:
    """tp = 8: queries 1024 x 128, keys and values 1024 x 256, output and MLP an eighth, norms."""
    expected = 131_072 + 262_144 + 131_072 + 1_572_864 + 2_048
    assert _table(llama, tp=8).dense_parameters[0, 1] == expected


def test_expert_parallelism_divides_experts_alone(moe: ModelSpec) -> None:
    """8 x 3 x 1024 x 1024 over 4 ranks; router 8192, attention and norms stay whole."""
    table = _table(moe, ep=4)
    assert table.expert_parameters[0, 1] == 6_291_456
    assert table.dense_parameters[0, 1] == 2_621_440 + 8_192 + 2_048


# -- communication at 100 GB/s without latency ---------------------------------------------------


def test_tensor_parallelism_reduces_twice_each_way(llama: ModelSpec) -> None:
    """tp = 2: an all-reduce of 2 s h = 4 MiB is 41.94 us; two forward, two backward."""
    assert _sent_us(llama, 1, tp=2) == pytest.approx((83.886, 83.886), rel=1e-4)


def test_sequence_parallelism_gathers_again_backward(llama: ModelSpec) -> None:
    """Each gather or scatter is 20.97 us: four forward, six backward."""
    assert _sent_us(llama, 1, tp=2, sequence=1) == pytest.approx((83.886, 125.829), rel=1e-4)


def test_the_lookup_is_summed_once(llama: ModelSpec) -> None:
    """All-reduce forward and nothing backward; or scatter forward and gather backward."""
    assert _sent_us(llama, 0, tp=2) == pytest.approx((41.943, 0.0), rel=1e-4)
    assert _sent_us(llama, 0, tp=2, sequence=1) == pytest.approx((20.972, 20.972), rel=1e-4)


def test_the_head_gathers_its_input(llama: ModelSpec) -> None:
    """All-reduce of the input's gradient; or gather forward, scatter and gather backward."""
    assert _sent_us(llama, 2, tp=2) == pytest.approx((0.0, 41.943), rel=1e-4, abs=1e-6)
    assert _sent_us(llama, 2, tp=2, sequence=1) == pytest.approx((20.972, 41.943), rel=1e-4)


def test_routed_experts_need_no_tensor_parallel_sum(moe: ModelSpec) -> None:
    """Only the attention block is summed: half of a dense layer."""
    assert _sent_us(moe, 1, tp=2, sequence=1) == pytest.approx((41.943, 62.915), rel=1e-4)


def test_experts_dispatch_and_combine(moe: ModelSpec) -> None:
    """2 s h topk = 8 MiB sent; 3/4 of it leaves a rank of 4: 62.91 us, twice each way."""
    assert _sent_us(moe, 1, ep=4) == pytest.approx((125.829, 125.829), rel=1e-4)


def test_biases_of_experts_pass_through_memory_beside_the_products(moe: ModelSpec) -> None:
    """2048 tokens x 2 experts x (2 x 1024 + 1024) x 2 bytes: 4 passes of 25.17 MB at 1 TB/s."""
    layer = moe.layer_types[0]
    assert isinstance(layer.feed_forward, Experts)
    biased = msgspec.structs.replace(layer.feed_forward, bias=True)
    with_biases = msgspec.structs.replace(
        moe, layer_types=(msgspec.structs.replace(layer, feed_forward=biased),)
    )
    unit = msgspec.structs.replace(
        UNIT,
        bandwidth_bytes_per_s=1e12,
        constants=msgspec.structs.replace(CONSTANTS, bias_passes=4.0, launch_s=0.0),
    )
    keys = Keys(**{name: np.array([value]) for name, value in MESH.items()})
    plain, added = (
        layer_table(lower(model), WORK, unit, _network(1e11), keys) for model in (moe, with_biases)
    )
    one = 4.0 * 25_165_824 / 1e12
    assert added.forward_s[0, 1] - plain.forward_s[0, 1] == pytest.approx(one)
    assert added.backward_s[0, 1] - plain.backward_s[0, 1] == pytest.approx(2.0 * one)


def test_context_parallelism_passes_keys_and_values_round(llama: ModelSpec) -> None:
    """cp = 2: the other rank's 1024 tokens x 2 heads x 256 values x 2 bytes = 1 MiB: 10.49 us.

    Backward keys, values and their gradients.
    """
    assert _sent_us(llama, 1, cp=2) == pytest.approx((10.486, 20.972), rel=1e-4)


# -- positions, tokens and time ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("causal", "window", "mean"),
    [
        (True, 0, 4.5),  # 1..8
        (False, 0, 8.0),
        (True, 4, 3.25),  # 1, 2, 3, 4, 4, 4, 4, 4
        (False, 4, 4.0),
        (True, 8, 4.5),
        (True, 100, 4.5),
    ],
)
def test_positions_a_token_attends_to(causal: bool, window: int, mean: float) -> None:
    """Eight tokens, counted one by one."""
    op = Op(name="core", kind="attention", shard="tensor", causal=causal, window=window)
    assert attended(op, 8) == mean


def test_a_decoder_sees_its_own_tokens(translator: ModelSpec) -> None:
    """Source 2048, target 512: the embedding takes both, the head the target."""
    graph = lower(translator)
    work = msgspec.structs.replace(WORK, decoder_sequence_length=512)
    own = [tokens_of(layer, graph, work)[0] for layer in graph.types]
    assert own == [2560, 2048, 512, 512]


def test_recomputing_the_core_repeats_its_forward_pass(llama: ModelSpec) -> None:
    """4 a g s (s+1)/2 = 8.594 GFLOP at the attention's speed, and a launch."""
    speed = 989.4e12 * CONSTANTS.attention_efficiency
    expected = 8.594128896e9 / speed + CONSTANTS.launch_s
    assert float(_table(llama).core_s[0, 1]) == pytest.approx(expected, rel=1e-9)


def test_an_unfused_core_computes_the_whole_square(gpt: ModelSpec) -> None:
    """Twice the positions, and the scores pass through memory: slower than the fused kernel."""
    unfused = msgspec.structs.replace(WORK, attention_kernel="unfused")
    fused_s = float(_table(gpt).core_s[0, 1])
    assert float(_table(gpt, unfused).core_s[0, 1]) > 1.9 * fused_s


def test_a_pass_takes_as_long_as_the_host_launches(llama: ModelSpec) -> None:
    """10 ms of launches bound both passes of a small layer; embedding and head are left alone."""
    slow = msgspec.structs.replace(CONSTANTS, layer_host_s=10e-3)
    keys = Keys(**{name: np.array([value]) for name, value in MESH.items()})
    unit = Unit.of(device("h100-sxm"), "bf16", slow)
    table = layer_table(lower(llama), WORK, unit, _network(100e9), keys)
    assert table.forward_s[0, 1] == 10e-3
    assert table.backward_s[0, 1] + table.weight_s[0, 1] == pytest.approx(10e-3)
    assert table.forward_s[0, 0] == _table(llama).forward_s[0, 0]
    assert table.forward_s[0, 2] == _table(llama).forward_s[0, 2]


def test_gradients_are_summed_in_the_product_or_by_a_kernel_of_their_own(gpt: ModelSpec) -> None:
    """12 h^2 weights of a GPT layer: 4 h^2 of attention and two matrices of 4 h^2.

    16-bit gradients with fp32 sums move 10 bytes a weight, 10/6 of the constant, in a kernel of
    its own; with 2,048 tokens a product hides the 8 of its own sum.
    """

    def weight_s(framework: str, release: str) -> float:
        work = msgspec.structs.replace(WORK, framework=framework, release=release)
        return float(_table(gpt, work).weight_s[0, 1])

    apart, inside = weight_s("megatron-lm", "21.04"), weight_s("megatron-lm", "22.05")
    moved = 12 * 1024**2 * 10 / 6 * CONSTANTS.accumulate_bytes
    assert apart - inside == pytest.approx(moved / UNIT.bandwidth_bytes_per_s, rel=1e-6)
    assert weight_s("megatron", "") == inside


def test_keys_together_equal_keys_alone(moe: ModelSpec) -> None:
    """Every field, bit for bit."""
    rows = [
        {"tp": 1, "sequence": 0, "cp": 1, "ep": 1, "micro_batch": 1},
        {"tp": 2, "sequence": 1, "cp": 1, "ep": 2, "micro_batch": 4},
        {"tp": 8, "sequence": 1, "cp": 2, "ep": 8, "micro_batch": 2},
        {"tp": 1, "sequence": 0, "cp": 4, "ep": 4, "micro_batch": 1},
    ]
    keys = Keys(**{name: np.array([row[name] for row in rows]) for name in rows[0]})
    together = layer_table(lower(moe), WORK, UNIT, _network(100e9), keys)
    for k, row in enumerate(rows):
        alone = _table(moe, **row)
        for name in LayerTable.__struct_fields__:
            assert getattr(together, name)[k].tolist() == getattr(alone, name)[0].tolist()


def _odd_vocabulary_s(model: ModelSpec, entries: int, framework: str, tp: int = 1) -> float:
    """Seconds of the head's input gradient beyond a vocabulary of as many whole eights."""
    own = msgspec.structs.replace(CONSTANTS, unaligned_product=1 / 8, gemm_tile_s=0.0, launch_s=0.0)
    unit = Unit.of(device("h100-sxm"), "bf16", own)
    keys = Keys(**{name: np.array([value]) for name, value in (MESH | {"tp": tp}).items()})
    found = []
    for software in (framework, "megatron"):
        work = msgspec.structs.replace(WORK, framework=software)
        wide = msgspec.structs.replace(model, vocabulary=entries)
        table = layer_table(lower(wide), work, unit, _network(1e30), keys)
        found.append(float(table.backward_s[0, -1]))
    return found[0] - found[1]


def test_every_halving_of_what_divides_a_vocabulary_costs_the_same_factor(llama: ModelSpec) -> None:
    """With an eighth of the speed for odd ones: twice the product for 4 x odd, 8 times for odd;
    half of 32008 on each of two ranks is 4 x odd. Megatron pads."""
    once = _odd_vocabulary_s(llama, 32004, "fsdp2")
    assert once > 1e-4
    assert _odd_vocabulary_s(llama, 32001, "fsdp2") == pytest.approx(7 * once, rel=1e-3)
    assert _odd_vocabulary_s(llama, 32008, "fsdp2", tp=2) == pytest.approx(once / 2, rel=1e-3)
    assert _odd_vocabulary_s(llama, 32008, "fsdp2") == 0.0
    assert _odd_vocabulary_s(llama, 32001, "megatron-deepspeed") == 0.0
