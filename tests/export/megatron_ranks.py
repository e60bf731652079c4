"""Build each rank's share of a GPT model with Megatron-core, on the meta device and a fake group.

    python megatron_ranks.py FLAGS.json      the flags as Megatron's argument parser names them

Prints, for each rank, its coordinates, and for each of its chunks the layers and parameters.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from torch.testing._internal.distributed.fake_pg import FakeStore


def config_of(flags: dict[str, Any]) -> Any:
    """The configuration Megatron makes of its arguments, with its own checks."""
    pp, layout = flags["pipeline_model_parallel_size"], flags["pipeline_model_parallel_layout"]
    rounds = (layout.count("|") + 1) // pp if layout else 1
    settings: dict[str, Any] = {
        name: flags[name]
        for name in (
            "num_layers",
            "hidden_size",
            "ffn_hidden_size",
            "num_attention_heads",
            "kv_channels",
            "num_query_groups",
            "normalization",
            "tensor_model_parallel_size",
            "pipeline_model_parallel_size",
            "context_parallel_size",
            "sequence_parallel",
            "recompute_granularity",
            "recompute_method",
            "recompute_num_layers",
        )
    }
    if flags["num_experts"]:
        settings |= {
            "num_moe_experts": flags["num_experts"],
            "moe_router_topk": flags["moe_router_topk"],
            "moe_ffn_hidden_size": flags["moe_ffn_hidden_size"],
            "moe_shared_expert_intermediate_size": flags["moe_shared_expert_intermediate_size"],
            "moe_token_dispatcher_type": "allgather",  # alltoall asks for a CUDA stream
            "moe_layer_freq": eval(flags["moe_layer_freq"] or "1"),
            "expert_model_parallel_size": flags["expert_model_parallel_size"],
            "expert_tensor_parallel_size": flags["expert_tensor_parallel_size"],
        }
    return TransformerConfig(
        **settings,
        virtual_pipeline_model_parallel_size=rounds if rounds > 1 else None,
        pipeline_model_parallel_layout=layout,
        gated_linear_unit=flags["swiglu"],
        activation_func=torch.nn.functional.silu,
        add_bias_linear=not flags["disable_bias_linear"],
        pipeline_dtype=torch.bfloat16,
        bf16=True,
        use_cpu_initialization=True,
    )


def rank_facts(flags: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    config = config_of(flags)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.tensor_model_parallel_size,
        pipeline_model_parallel_size=config.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=config.virtual_pipeline_model_parallel_size,
        context_parallel_size=config.context_parallel_size,
        expert_model_parallel_size=config.expert_model_parallel_size,
        expert_tensor_parallel_size=config.expert_tensor_parallel_size,
        create_gloo_process_groups=False,
    )
    config.sequence_parallel = False  # checked above; the norms that allow it need Apex or a GPU
    pp_rank = parallel_state.get_pipeline_model_parallel_rank()
    pp, rounds = config.pipeline_model_parallel_size, config.virtual_pipeline_model_parallel_size
    layers, parameters = [], []
    for chunk in range(rounds or 1):
        virtual = chunk if rounds else None
        number, last = chunk * pp + pp_rank, pp * (rounds or 1) - 1
        spec = get_gpt_decoder_block_spec(
            config, use_transformer_engine=False, normalization="RMSNorm", vp_stage=virtual
        )
        with torch.device("meta"):
            model = GPTModel(
                config,
                spec,
                flags["vocab_size"],
                flags["seq_length"],
                pre_process=number == 0,
                post_process=number == last,
                share_embeddings_and_output_weights=not flags[
                    "untie_embeddings_and_output_weights"
                ],
                position_embedding_type=flags["position_embedding_type"],
                vp_stage=virtual,
            )
        layers.append(get_num_layers_to_build(config, vp_stage=virtual))
        parameters.append(sum(p.numel() for p in model.parameters()))
    facts = {
        "pp": pp_rank,
        "tp": parallel_state.get_tensor_model_parallel_rank(),
        "dp": parallel_state.get_data_parallel_rank(),
        "layers": layers,
        "parameters": parameters,
    }
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
    return facts


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    size = int(sys.argv[2])
    print(json.dumps([rank_facts(given, rank, size) for rank in range(size)]))
