"""The torchrun launch script that exports share."""

from __future__ import annotations

import shlex

from optalloc.export.chain import require_rank_order
from optalloc.training.plan import TrainingPlan

_HEAD = """\
#!/bin/sh
# {title}
# Run it on {nodes} node{plural}, {devices} devices in all: sh {name} [arguments]
{how}set -eu
cd "$(dirname "$0")"
"""

_SEVERAL = """\
# On each node set NODE_RANK (0 to {last}) and MASTER_ADDR (the address of node 0).
"""

_RUN = """\
exec {runner} --nnodes {nodes} --nproc-per-node "{processes}" \\
  --node-rank "${{NODE_RANK:-0}}" --master-addr "${{MASTER_ADDR:-127.0.0.1}}" \\
  --master-port "${{MASTER_PORT:-29500}}" \\
  {program} "$@"
"""


def nodes_of(plan: TrainingPlan) -> tuple[int, int, int]:
    """Nodes used, processes on each, and on the last one (fewer if devices stay idle)."""
    per_node = plan.cluster.nodes[0].devices
    used = plan.degrees.tp * plan.degrees.cp * plan.degrees.pp * plan.degrees.dp
    nodes = -(-used // per_node)
    if nodes == 1:
        return 1, used, used
    return nodes, per_node, used - (nodes - 1) * per_node


def torchrun_script(
    plan: TrainingPlan,
    target: str,
    name: str,
    program: str,
    *,
    before: str = "",
) -> str:
    """A POSIX shell script that starts ``program`` on every process of the plan.

    Raises
    ------
    ExportError
        If the plan's stages are not consecutive blocks of devices.
    """
    require_rank_order(plan, target)
    nodes, processes, rest = nodes_of(plan)
    devices = plan.degrees.tp * plan.degrees.cp * plan.degrees.pp * plan.degrees.dp
    title = f"{plan.model.name}: {_degrees(plan)}"
    text = _HEAD.format(
        title=title,
        nodes=nodes,
        plural="" if nodes == 1 else "s",
        devices=devices,
        name=name,
        how=_SEVERAL.format(last=nodes - 1) if nodes > 1 else "",
    )
    text += f"processes={processes}\n"
    if rest != processes:
        text += f'if [ "${{NODE_RANK:-0}}" = {nodes - 1} ]; then processes={rest}; fi\n'
    text += before
    return text + _RUN.format(
        runner="${TORCHRUN:-torchrun}", nodes=nodes, processes="$processes", program=program
    )


def _degrees(plan: TrainingPlan) -> str:
    d = plan.degrees
    words = [f"tp {d.tp}", f"cp {d.cp}", f"pp {d.pp}", f"dp {d.dp}", f"ep {d.ep}"]
    words += [f"virtual stages {d.virtual_stages}", f"ZeRO {plan.zero_stage}", plan.schedule]
    return ", ".join(words)


def quoted(words: list[str]) -> str:
    """Shell words, quoted where the shell would read more into them."""
    return " ".join(shlex.quote(word) for word in words)
