"""Schemas of what serving plans are exported to, by the fields that are published."""

from __future__ import annotations

LLM_ARGS = {
    "type": "object",
    "additionalProperties": False,
    "required": ["tensor_parallel_size", "max_batch_size", "max_num_tokens", "kv_cache_config"],
    "properties": {
        "backend": {"const": "pytorch"},
        "tensor_parallel_size": {"type": "integer", "minimum": 1},
        "pipeline_parallel_size": {"type": "integer", "minimum": 1},
        "moe_expert_parallel_size": {"type": "integer", "minimum": 1},
        "moe_tensor_parallel_size": {"type": "integer", "minimum": 1},
        "enable_attention_dp": {"type": "boolean"},
        "max_batch_size": {"type": "integer", "minimum": 1},
        "max_num_tokens": {"type": "integer", "minimum": 1},
        "enable_chunked_prefill": {"type": "boolean"},
        "disable_overlap_scheduler": {"type": "boolean"},
        "kv_cache_config": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "free_gpu_memory_fraction": {"type": "number", "minimum": 0, "maximum": 1},
                "dtype": {"enum": ["auto", "fp8", "bfloat16"]},
            },
        },
        "cache_transceiver_config": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "backend": {"enum": ["DEFAULT", "UCX", "NIXL", "MPI"]},
                "max_tokens_in_buffer": {"type": "integer", "minimum": 1},
            },
        },
    },
}

CONTAINER = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "image": {"type": "string"},
        "command": {"type": "array", "items": {"type": "string"}},
        "args": {"type": "array", "items": {"type": "string"}},
        "volumeMounts": {"type": "array"},
    },
}

SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["componentType", "replicas", "extraPodSpec"],
    "properties": {
        "componentType": {"enum": ["frontend", "worker"]},
        "subComponentType": {"enum": ["prefill", "decode"]},
        "replicas": {"type": "integer", "minimum": 0},
        "envFromSecret": {"type": "string"},
        "resources": {
            "type": "object",
            "properties": {
                "limits": {
                    "additionalProperties": False,
                    "properties": {"gpu": {"type": "string"}, "gpuType": {"type": "string"}},
                }
            },
        },
        "multinode": {"properties": {"nodeCount": {"type": "integer", "minimum": 2}}},
        "extraPodSpec": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "mainContainer": CONTAINER,
                "volumes": {"type": "array"},
                "nodeSelector": {"additionalProperties": {"type": "string"}},
            },
        },
    },
}

POOL = {
    "type": "object",
    "properties": {
        "create": {"type": "boolean"},
        "replicas": {"type": "integer"},
        "parallelism": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                name: {"type": "integer", "minimum": 1}
                for name in ("tensor", "data", "dataLocal", "workers")
            },
        },
        "containers": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "image", "modelCommand"],
                "properties": {
                    "modelCommand": {"enum": ["vllmServe", "imageDefault", "custom"]},
                    "args": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
    },
}

VALUES = {
    "type": "object",
    "additionalProperties": False,
    "required": ["modelArtifacts"],
    "properties": {
        "multinode": {"type": "boolean"},
        "accelerator": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"type": {"enum": ["nvidia", "amd", "google"]}},
        },
        "modelArtifacts": {"type": "object", "required": ["name", "uri"]},
        "routing": {"type": "object"},
        "decode": POOL,
        "prefill": POOL,
    },
}

LWS = {
    "type": "object",
    "additionalProperties": False,
    "required": ["leaderWorkerTemplate"],
    "properties": {
        "replicas": {"type": "integer", "minimum": 0, "maximum": 1000000},
        "leaderWorkerTemplate": {
            "type": "object",
            "additionalProperties": False,
            "required": ["workerTemplate"],
            "properties": {
                "size": {"type": "integer", "minimum": 1},
                "restartPolicy": {
                    "enum": [
                        "Default",
                        "RecreateGroupOnPodRestart",
                        "RecreateGroupAfterStart",
                        "None",
                    ]
                },
                "workerTemplate": {"type": "object", "required": ["spec"]},
            },
        },
    },
}
