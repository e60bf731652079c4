"""Exports of serving plans to Kubernetes: Dynamo, llm-d and LeaderWorkerSets.

Objects are checked against the built-in schemas where ``kubernetes-validate`` is installed, others
against their published fields.
"""

from __future__ import annotations

import jsonschema
import pytest
from tests.export.serving_plans import plan_of, split, worker
from tests.export.serving_readers import files_of, objects, vllm_reader
from tests.export.serving_schemas import LWS, SERVICE, VALUES

from optalloc.cost.engine.setup import Engine

DEEPSEEK = "deepseek-v3"


@pytest.mark.parametrize("software", ["vllm", "sglang", "trtllm"])
def test_dynamo_services_carry_their_roles(software: str) -> None:
    """In the service and in the flag: without it a worker registers as one of both phases."""
    *rest, graph = objects(files_of(split(software), "dynamo")["deploy.yaml"])
    assert (graph["apiVersion"], graph["kind"]) == ("nvidia.com/v1alpha1", "DynamoGraphDeployment")
    services = graph["spec"]["services"]
    for service in services.values():
        jsonschema.validate(service, SERVICE)
    assert list(services) == ["Frontend", "prefill", "decode"]
    for role, count, gpus in (("prefill", 2, "2"), ("decode", 1, "4")):
        service = services[role]
        args = service["extraPodSpec"]["mainContainer"]["args"]
        assert service["subComponentType"] == role
        assert args[args.index("--disaggregation-mode") + 1] == role
        assert args.count("--disaggregation-mode") == 1
        assert (service["replicas"], service["resources"]["limits"]["gpu"]) == (count, gpus)
        assert "--kv-transfer-config" not in args
    assert bool(rest) == (software == "trtllm")
    if rest:
        assert sorted(rest[0]["data"]) == ["decode.yaml", "prefill.yaml"]


def test_dynamo_spreads_an_engine_over_nodes() -> None:
    """Sixteen devices on nodes of eight; workers of different devices choose their nodes."""
    graph = objects(files_of(plan_of(worker(Engine(tp=8, pp=2))), "dynamo")["deploy.yaml"])[-1]
    service = graph["spec"]["services"]["worker"]
    assert service["multinode"] == {"nodeCount": 2}
    assert service["resources"]["limits"]["gpu"] == "8"
    mixed = plan_of(
        worker(Engine(tp=4), role="prefill", group=1),
        worker(Engine(tp=4), role="decode"),
        cluster="8xh100-sxm+8xa100-sxm-80g",
    )
    files = files_of(mixed, "dynamo")
    services = objects(files["deploy.yaml"])[-1]["spec"]["services"]
    selectors = [services[n]["extraPodSpec"]["nodeSelector"] for n in ("prefill", "decode")]
    assert selectors == [{"optalloc/device": "a100-sxm-80g"}, {"optalloc/device": "h100-sxm"}]
    assert "a100-sxm-80g, h100-sxm" in files["apply.sh"]


def test_amd_gpus_are_asked_for_by_their_name() -> None:
    """``amd.com/gpu`` in a LeaderWorkerSet, ``gpuType`` for Dynamo, ``accelerator`` for llm-d."""
    plan = plan_of(worker(Engine(tp=4)), cluster="8xmi300x")
    group = objects(files_of(plan, "lws")["lws.yaml"])[0]["spec"]["leaderWorkerTemplate"]
    limits = group["workerTemplate"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"amd.com/gpu": "4"}
    graph = objects(files_of(plan, "dynamo")["deploy.yaml"])[-1]
    service = graph["spec"]["services"]["worker"]
    jsonschema.validate(service, SERVICE)
    assert service["resources"]["limits"] == {"gpu": "4", "gpuType": "amd.com/gpu"}
    values = objects(files_of(plan, "llm-d")["values.yaml"])[0]
    jsonschema.validate(values, VALUES)
    assert values["accelerator"] == {"type": "amd"}


def test_llm_d_values_leave_the_widths_to_the_chart() -> None:
    """The chart adds tensor and data parallelism itself; twice would be an error of vLLM."""
    values = objects(files_of(split(), "llm-d")["values.yaml"])[0]
    jsonschema.validate(values, VALUES)
    assert values["routing"]["proxy"]["enabled"] is True
    for role, tensor, count in (("prefill", 2, 2), ("decode", 4, 1)):
        pool = values[role]
        assert (pool["parallelism"]["tensor"], pool["replicas"]) == (tensor, count)
        read = vllm_reader().parse_args(pool["containers"][0]["args"])
        assert read.tensor_parallel_size == 1
        assert read.kv_transfer_config["kv_connector"] == "NixlConnector"
        assert pool["containers"][0]["env"][0]["name"] == "VLLM_NIXL_SIDE_CHANNEL_HOST"
    engine = Engine(attention_dp=16, moe_ep=16)
    values = objects(files_of(plan_of(worker(engine), model=DEEPSEEK), "llm-d")["values.yaml"])[0]
    jsonschema.validate(values, VALUES)
    assert values["prefill"] == {"create": False}
    assert values["multinode"] is True
    shape = {"tensor": 1, "data": 16, "dataLocal": 8, "workers": 2}
    assert values["decode"]["parallelism"] == shape
    assert "--enable-expert-parallel" in values["decode"]["containers"][0]["args"]


@pytest.mark.parametrize("software", ["vllm", "sglang"])
def test_leader_worker_sets_follow_their_schema(software: str) -> None:
    """A set and a service for each role; the pods of a group are the nodes of an engine."""
    found = objects(files_of(split(software), "lws")["lws.yaml"])
    sets = [one for one in found if one["kind"] == "LeaderWorkerSet"]
    services = [one for one in found if one["kind"] == "Service"]
    for one, replicas, gpus in zip(sets, (2, 1), ("2", "4"), strict=True):
        jsonschema.validate(one["spec"], LWS)
        assert one["apiVersion"] == "leaderworkerset.x-k8s.io/v1"
        assert one["spec"]["replicas"] == replicas
        template = one["spec"]["leaderWorkerTemplate"]
        container = template["workerTemplate"]["spec"]["containers"][0]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
        role = one["metadata"]["name"].rpartition("-")[2]
        assert ("kv_producer" if software == "vllm" else "prefill") in container["command"][2] or (
            role == "decode"
        )
    assert [one["spec"]["selector"]["app"] for one in services] == [
        one["metadata"]["name"] for one in sets
    ]


def test_leader_worker_set_spreads_an_engine_over_nodes() -> None:
    """Two pods of eight devices a group, told apart by what the controller sets."""
    leaders, _ = objects(files_of(plan_of(worker(Engine(tp=8, pp=2))), "lws")["lws.yaml"])
    template = leaders["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 2
    command = template["workerTemplate"]["spec"]["containers"][0]["command"][2]
    for word in ("--nnodes 2", "$LWS_WORKER_INDEX", "$LWS_LEADER_ADDRESS", "--headless"):
        assert word in command


@pytest.mark.parametrize("target", ["lws", "dynamo"])
def test_built_in_kinds_pass_the_schemas_of_kubernetes(target: str) -> None:
    """Services, ConfigMaps and the pods inside of sets, strictly."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is absent")
    plan = split("trtllm" if target == "dynamo" else "vllm")
    files = files_of(plan, target)
    checked = 0
    for one in objects(files["lws.yaml" if target == "lws" else "deploy.yaml"]):
        if one["kind"] == "LeaderWorkerSet":
            template = one["spec"]["leaderWorkerTemplate"]["workerTemplate"]
            one = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "p", **template["metadata"]},
                "spec": template["spec"],
            }
        if one["kind"] != "DynamoGraphDeployment":
            validate.validate(one, "1.37", strict=True)
            checked += 1
    assert checked
