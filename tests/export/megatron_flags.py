"""The flags of Megatron-LM that are used, read by a parser of our own that refuses others."""

from __future__ import annotations

import argparse
import re
import shlex

from optalloc.export.base import artefacts
from optalloc.training.plan import TrainingPlan

# Switches and valued flags of Megatron-LM's argument parser (megatron/training/arguments.py).
SWITCHES = [
    "sequence-parallel",
    "use-distributed-optimizer",
    "overlap-grad-reduce",
    "overlap-param-gather",
    "bf16",
    "fp16",
    "swiglu",
    "disable-bias-linear",
    "add-qkv-bias",
    "qk-layernorm",
    "group-query-attention",
    "moe-grouped-gemm",
    "untie-embeddings-and-output-weights",
    "accumulate-allreduce-grads-in-fp32",
    "grad-reduce-in-bf16",
    "multi-latent-attention",
    "use-megatron-fsdp",
    "no-gradient-accumulation-fusion",
    "moe-shared-expert-gate",
    "mock-data",
]
NUMBERS = [
    "num-layers",
    "hidden-size",
    "ffn-hidden-size",
    "num-attention-heads",
    "kv-channels",
    "num-query-groups",
    "seq-length",
    "max-position-embeddings",
    "vocab-size",
    "tensor-model-parallel-size",
    "pipeline-model-parallel-size",
    "context-parallel-size",
    "expert-model-parallel-size",
    "expert-tensor-parallel-size",
    "micro-batch-size",
    "global-batch-size",
    "num-experts",
    "moe-router-topk",
    "moe-ffn-hidden-size",
    "moe-shared-expert-intermediate-size",
    "recompute-num-layers",
    "num-distributed-optimizer-instances",
    "kv-lora-rank",
    "q-lora-rank",
    "qk-head-dim",
    "qk-pos-emb-head-dim",
    "v-head-dim",
    "train-iters",
]
CHOICES = {
    "normalization": ("LayerNorm", "RMSNorm"),
    "position-embedding-type": ("learned_absolute", "rope"),
    "recompute-granularity": ("full", "selective"),
    "recompute-method": ("uniform", "block"),
    "recompute-modules": ("core_attn",),
    "optimizer": ("adam", "sgd"),
    "attention-backend": ("flash", "fused", "unfused", "auto"),
    "softmax-type": ("vanilla", "learnable"),
    "moe-token-dispatcher-type": ("alltoall", "allgather", "flex"),
    "data-parallel-sharding-strategy": ("no_shard", "optim", "optim_grads", "optim_grads_params"),
    "ckpt-format": ("torch_dist", "fsdp_dtensor"),
    "fp8-format": ("e4m3", "hybrid"),
    "tokenizer-type": ("NullTokenizer",),
}
TEXTS = [
    "pipeline-model-parallel-layout",
    "moe-layer-freq",
    "window-size",
    "window-attn-skip-freq",
    "attention-dropout",
    "hidden-dropout",
    "lr",
]


def read(plan: TrainingPlan) -> argparse.Namespace:
    """The flags of the launch script, read by a parser that refuses unknown ones."""
    script = artefacts(plan, "megatron")[0].text
    start = script.index("set -- \\\n") + len("set -- ")
    line = script[start : script.index('"$@"', start)].replace("\\\n", " ")
    line = line.replace("$DATA_ARGUMENTS", "--mock-data --tokenizer-type NullTokenizer")
    line = line.replace("$TRAINING_ARGUMENTS", "--train-iters 20 --lr 1e-4")
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for name in SWITCHES:
        parser.add_argument(f"--{name}", action="store_true")
    for name in NUMBERS:
        parser.add_argument(f"--{name}", type=int)
    for name, choices in CHOICES.items():
        parser.add_argument(f"--{name}", choices=choices)
    for name in TEXTS:
        parser.add_argument(f"--{name}")
    return parser.parse_args(shlex.split(line))


def read_layout(text: str, pp: int) -> list[list[str]]:
    """Layout grammar: E, t, m, L; ``x*N``; ``(..)*N``; commas ignored. Letters of each pp rank."""
    text = re.sub(r"\(([^()]*)\)\*(\d+)", lambda m: m.group(1) * int(m.group(2)), text)
    text = re.sub(r"([EtmL])\*(\d+)", lambda m: m.group(1) * int(m.group(2)), text.replace(",", ""))
    assert re.fullmatch(r"[EtmL|]*", text)
    stages = text.split("|")
    assert len(stages) % pp == 0
    return [stages[rank::pp] for rank in range(pp)]
