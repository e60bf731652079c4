"""The torchrun launch script that exports share."""

from __future__ import annotations

import shlex

import msgspec

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


class Host(msgspec.Struct, frozen=True):
    """A node of a run: its processes, and the device that they use."""

    processes: int
    device: str


def hosts_of(plan: TrainingPlan) -> list[Host]:
    """The nodes used, in the order of the ranks; the last one may have devices to spare."""
    degrees, hosts = plan.degrees, []
    left = degrees.tp * degrees.cp * degrees.pp * degrees.dp
    for group in plan.cluster.nodes:
        for _ in range(min(group.count, -(-left // group.devices))):
            hosts.append(Host(min(left, group.devices), group.device.name))
            left -= hosts[-1].processes
    return hosts


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
    title = f"{plan.model.name}: {_degrees(plan)}"
    return script(title, hosts_of(plan), name, program, before=before)


def script(title: str, hosts: list[Host], name: str, program: str, *, before: str = "") -> str:
    """A POSIX shell script that starts ``program`` on all processes of the hosts, in order."""
    nodes = len(hosts)
    text = _HEAD.format(
        title=title,
        nodes=nodes,
        plural="" if nodes == 1 else "s",
        devices=sum(host.processes for host in hosts),
        name=name,
        how=_SEVERAL.format(last=nodes - 1) if nodes > 1 else "",
    )
    text += _processes(hosts) + before
    return text + _RUN.format(
        runner="${TORCHRUN:-torchrun}", nodes=nodes, processes="$processes", program=program
    )


def _processes(hosts: list[Host]) -> str:
    """How many processes a node starts: as many as the others, fewer on the last, or by rank."""
    first, last = hosts[0], hosts[-1]
    if len({host.device for host in hosts}) > 1 or any(host != first for host in hosts[:-1]):
        cases = "".join(
            f"  {rank}) processes={host.processes} ;;  # {host.device}\n"
            for rank, host in enumerate(hosts)
        )
        return f'case "${{NODE_RANK:-0}}" in\n{cases}esac\n'
    text = f"processes={first.processes}\n"
    if last != first:
        text += f'if [ "${{NODE_RANK:-0}}" = {len(hosts) - 1} ]; '
        text += f"then processes={last.processes}; fi\n"
    return text


def _degrees(plan: TrainingPlan) -> str:
    d = plan.degrees
    words = [f"tp {d.tp}", f"cp {d.cp}", f"pp {d.pp}", f"dp {d.dp}", f"ep {d.ep}"]
    words += [f"virtual stages {d.virtual_stages}", f"ZeRO {plan.zero_stage}", plan.schedule]
    return ", ".join(words)


def quoted(words: list[str]) -> str:
    """Shell words, quoted where the shell would read more into them."""
    return " ".join(shlex.quote(word) for word in words)
