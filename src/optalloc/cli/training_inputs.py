"""The inputs that train and estimate share: model, cluster and workload, from flags or files."""

from __future__ import annotations

import argparse

from optalloc.cli.workloads import workload_of
from optalloc.cluster.load import load_cluster
from optalloc.cluster.topology import Cluster
from optalloc.cost.constants import DEFAULT
from optalloc.model.load import load_model
from optalloc.model.spec import ModelSpec
from optalloc.workload import FRAMEWORKS, Training

# Flag -> field of the workload.
_FLAGS = {
    "global_batch": "--global-batch",
    "sequence_length": "--seq-len",
    "decoder_sequence_length": "--decoder-seq-len",
    "dtype": "--dtype",
    "optimizer": "--optimizer",
    "gradient_dtype": "--gradient-dtype",
    "attention_kernel": "--attention-kernel",
    "framework": "--framework",
    "lora_rank": "--lora-rank",
}


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Arguments that name the three inputs."""
    parser.add_argument(
        "model", metavar="MODEL", help="a bundled name, a config.json, or its folder"
    )
    parser.add_argument(
        "--cluster",
        required=True,
        metavar="CLUSTER",
        help="for example 64xh100-sxm, or a cluster.toml",
    )
    parser.add_argument(
        "--global-batch", type=int, metavar="N", help="sequences of one optimizer step"
    )
    parser.add_argument(
        "--seq-len", type=int, metavar="N", dest="sequence_length", help="tokens of one sequence"
    )
    add_step(parser)


def add_step(parser: argparse.ArgumentParser) -> None:
    """Arguments of a step beside its batch and its sequences."""
    parser.add_argument("--workload", metavar="FILE", help="a workload.toml; flags come before it")
    parser.add_argument(
        "--decoder-seq-len",
        type=int,
        metavar="N",
        dest="decoder_sequence_length",
        help="target tokens of one sequence (encoder-decoder models; default: as --seq-len)",
    )
    parser.add_argument(
        "--dtype", choices=("bf16", "fp16", "fp8", "fp4", "fp32"), help="default: bf16"
    )
    parser.add_argument("--optimizer", choices=("adamw", "lion", "sgd"), help="default: adamw")
    parser.add_argument("--gradient-dtype", choices=("fp32", "bf16"), help="default: fp32")
    parser.add_argument("--attention-kernel", choices=("fused", "unfused"), help="default: fused")
    parser.add_argument(
        "--framework",
        choices=FRAMEWORKS,
        help="software that runs the step; default: megatron",
    )
    parser.add_argument(
        "--lora-rank", type=int, metavar="N", help="low-rank adapters on frozen weights"
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE.toml",
        help="constants that 'optalloc calibrate' wrote; default: those of the package",
    )


def cost_model(arguments: argparse.Namespace) -> str:
    """The cost model that the arguments name: a file, or the package's own."""
    named: str | None = getattr(arguments, "calibration", None)
    return named or DEFAULT


def read_inputs(arguments: argparse.Namespace) -> tuple[ModelSpec, Cluster, Training]:
    """Model, cluster and workload that the arguments name.

    Raises
    ------
    InputError
        If one of them cannot be read, or neither flags nor a file say what a step is.
    """
    workload = read_workload(arguments)
    return load_model(arguments.model), load_cluster(arguments.cluster), workload


def read_workload(arguments: argparse.Namespace) -> Training:
    """The workload file with the flags put over it, or the flags alone."""
    given: dict[str, object] = {
        name: value for name in _FLAGS if (value := getattr(arguments, name, None)) is not None
    }
    needed = ("global_batch", "sequence_length")
    return workload_of(arguments, Training, given, _FLAGS, needed=needed)
