"""Globally optimal allocation of large-language-model computation to compute units, with proof."""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # the same names for type checkers, which do not run __getattr__
    from optalloc.assignment.certify import certify_assignment as certify_assignment
    from optalloc.assignment.formats import load_assignment as load_assignment
    from optalloc.assignment.formats import save_assignment as save_assignment
    from optalloc.assignment.problem import AssignmentProblem as AssignmentProblem
    from optalloc.assignment.reference import global_optimal_allocation as global_optimal_allocation
    from optalloc.assignment.result import AssignmentResult as AssignmentResult
    from optalloc.assignment.shadow import shadow_prices as shadow_prices
    from optalloc.assignment.solve import solve_assignment as solve_assignment
    from optalloc.cluster.device import DeviceSpec as DeviceSpec
    from optalloc.cluster.load import load_cluster as load_cluster
    from optalloc.cluster.topology import Cluster as Cluster
    from optalloc.errors import CertificateError as CertificateError
    from optalloc.errors import ExportError as ExportError
    from optalloc.errors import FormatVersionError as FormatVersionError
    from optalloc.errors import InputError as InputError
    from optalloc.errors import MissingExtra as MissingExtra
    from optalloc.errors import NoPlan as NoPlan
    from optalloc.errors import OptallocError as OptallocError
    from optalloc.errors import UnsupportedModel as UnsupportedModel
    from optalloc.execute.run import run_plan as run_plan
    from optalloc.export.export import export as export
    from optalloc.export.export import export_targets as export_targets
    from optalloc.export.pins import plan_for_target as plan_for_target
    from optalloc.export.pins import plan_mixed_for_target as plan_mixed_for_target
    from optalloc.model.load import bundled_models as bundled_models
    from optalloc.model.load import load_model as load_model
    from optalloc.model.parameters import active_parameters as active_parameters
    from optalloc.model.parameters import total_parameters as total_parameters
    from optalloc.model.spec import ModelSpec as ModelSpec
    from optalloc.plan.certify import certify as certify
    from optalloc.plan.compare import compare as compare
    from optalloc.plan.compare_serving import compare_serving as compare_serving
    from optalloc.plan.explain import explain as explain
    from optalloc.plan.explain_serving import explain_serving as explain_serving
    from optalloc.plan.plan import load_mixed_plan as load_mixed_plan
    from optalloc.plan.plan import load_offload_plan as load_offload_plan
    from optalloc.plan.plan import load_plan as load_plan
    from optalloc.plan.plan import load_serving_plan as load_serving_plan
    from optalloc.plan.replan import replan as replan
    from optalloc.plan.serving import certify_serving as certify_serving
    from optalloc.plan.sweep import grid as grid
    from optalloc.plan.sweep import sweep as sweep
    from optalloc.plan.sweep_serving import serving_grid as serving_grid
    from optalloc.plan.sweep_serving import sweep_serving as sweep_serving
    from optalloc.result import Bounds as Bounds
    from optalloc.result import Result as Result
    from optalloc.result import Stats as Stats
    from optalloc.result import Termination as Termination
    from optalloc.serving.configuration.plan import ServingPlan as ServingPlan
    from optalloc.serving.configuration.recommend import recommend as recommend
    from optalloc.serving.configuration.solve import ServingResult as ServingResult
    from optalloc.serving.configuration.solve import plan_serving as plan_serving
    from optalloc.serving.flow.certify import certify_flow as certify_flow
    from optalloc.serving.flow.instance import load_flow as load_flow
    from optalloc.serving.flow.problem import FlowProblem as FlowProblem
    from optalloc.serving.flow.result import FlowResult as FlowResult
    from optalloc.serving.flow.solve import place_layers as place_layers
    from optalloc.serving.flow.table import flow_problem as flow_problem
    from optalloc.serving.mix.certify import certify_fleet as certify_fleet
    from optalloc.serving.mix.instance import load_fleet as load_fleet
    from optalloc.serving.mix.problem import FleetProblem as FleetProblem
    from optalloc.serving.mix.result import FleetResult as FleetResult
    from optalloc.serving.mix.solve import plan_fleet as plan_fleet
    from optalloc.serving.offload.certify import certify_offload as certify_offload
    from optalloc.serving.offload.explain import explain_offload as explain_offload
    from optalloc.serving.offload.generation import Generation as Generation
    from optalloc.serving.offload.machine import Machine as Machine
    from optalloc.serving.offload.machine import load_machine as load_machine
    from optalloc.serving.offload.plan import OffloadPlan as OffloadPlan
    from optalloc.serving.offload.plan import OffloadResult as OffloadResult
    from optalloc.serving.offload.solve import best_kv_dtype as best_kv_dtype
    from optalloc.serving.offload.solve import longest_context as longest_context
    from optalloc.serving.offload.solve import plan_offload as plan_offload
    from optalloc.simulate.requests.max_rate import max_rate as max_rate
    from optalloc.simulate.requests.simulate import simulate_requests as simulate_requests
    from optalloc.simulate.simulation import simulate as simulate
    from optalloc.stop import Either as Either
    from optalloc.stop import Gap as Gap
    from optalloc.stop import NodeLimit as NodeLimit
    from optalloc.stop import Progress as Progress
    from optalloc.stop import TimeLimit as TimeLimit
    from optalloc.training.estimate import estimate as estimate
    from optalloc.training.mixed.estimate import estimate_mixed as estimate_mixed
    from optalloc.training.mixed.plan import MixedPlan as MixedPlan
    from optalloc.training.mixed.robust import plan_mixed_robust as plan_mixed_robust
    from optalloc.training.mixed.solve import plan_mixed as plan_mixed
    from optalloc.training.mixed.strategy import MixedStrategy as MixedStrategy
    from optalloc.training.plan import TrainingPlan as TrainingPlan
    from optalloc.training.robust import plan_robust as plan_robust
    from optalloc.training.solve import TrainingResult as TrainingResult
    from optalloc.training.solve import plan_training as plan_training
    from optalloc.training.strategy import Recompute as Recompute
    from optalloc.training.strategy import Strategy as Strategy
    from optalloc.workload import Serving as Serving
    from optalloc.workload import Training as Training
    from optalloc.workload import load_workload as load_workload

# Public name -> module that defines it. Names are resolved on first use (PEP 562), so that
# ``import optalloc`` costs next to nothing.
_HOME = {
    "AssignmentProblem": "optalloc.assignment.problem",
    "AssignmentResult": "optalloc.assignment.result",
    "Bounds": "optalloc.result",
    "CertificateError": "optalloc.errors",
    "Cluster": "optalloc.cluster.topology",
    "DeviceSpec": "optalloc.cluster.device",
    "Either": "optalloc.stop",
    "ExportError": "optalloc.errors",
    "FleetProblem": "optalloc.serving.mix.problem",
    "FleetResult": "optalloc.serving.mix.result",
    "FlowProblem": "optalloc.serving.flow.problem",
    "FlowResult": "optalloc.serving.flow.result",
    "FormatVersionError": "optalloc.errors",
    "Gap": "optalloc.stop",
    "Generation": "optalloc.serving.offload.generation",
    "InputError": "optalloc.errors",
    "Machine": "optalloc.serving.offload.machine",
    "MissingExtra": "optalloc.errors",
    "MixedPlan": "optalloc.training.mixed.plan",
    "MixedStrategy": "optalloc.training.mixed.strategy",
    "ModelSpec": "optalloc.model.spec",
    "NoPlan": "optalloc.errors",
    "NodeLimit": "optalloc.stop",
    "OffloadPlan": "optalloc.serving.offload.plan",
    "OffloadResult": "optalloc.serving.offload.plan",
    "OptallocError": "optalloc.errors",
    "Progress": "optalloc.stop",
    "Recompute": "optalloc.training.strategy",
    "Result": "optalloc.result",
    "Serving": "optalloc.workload",
    "ServingPlan": "optalloc.serving.configuration.plan",
    "ServingResult": "optalloc.serving.configuration.solve",
    "Stats": "optalloc.result",
    "Strategy": "optalloc.training.strategy",
    "Termination": "optalloc.result",
    "TimeLimit": "optalloc.stop",
    "Training": "optalloc.workload",
    "TrainingPlan": "optalloc.training.plan",
    "TrainingResult": "optalloc.training.solve",
    "UnsupportedModel": "optalloc.errors",
    "active_parameters": "optalloc.model.parameters",
    "best_kv_dtype": "optalloc.serving.offload.solve",
    "bundled_models": "optalloc.model.load",
    "certify": "optalloc.plan.certify",
    "certify_assignment": "optalloc.assignment.certify",
    "certify_fleet": "optalloc.serving.mix.certify",
    "certify_flow": "optalloc.serving.flow.certify",
    "certify_offload": "optalloc.serving.offload.certify",
    "certify_serving": "optalloc.plan.serving",
    "compare": "optalloc.plan.compare",
    "compare_serving": "optalloc.plan.compare_serving",
    "estimate": "optalloc.training.estimate",
    "estimate_mixed": "optalloc.training.mixed.estimate",
    "explain": "optalloc.plan.explain",
    "explain_offload": "optalloc.serving.offload.explain",
    "explain_serving": "optalloc.plan.explain_serving",
    "export": "optalloc.export.export",
    "export_targets": "optalloc.export.export",
    "flow_problem": "optalloc.serving.flow.table",
    "global_optimal_allocation": "optalloc.assignment.reference",
    "grid": "optalloc.plan.sweep",
    "load_assignment": "optalloc.assignment.formats",
    "load_cluster": "optalloc.cluster.load",
    "load_fleet": "optalloc.serving.mix.instance",
    "load_flow": "optalloc.serving.flow.instance",
    "load_machine": "optalloc.serving.offload.machine",
    "load_mixed_plan": "optalloc.plan.plan",
    "load_model": "optalloc.model.load",
    "load_offload_plan": "optalloc.plan.plan",
    "load_plan": "optalloc.plan.plan",
    "load_serving_plan": "optalloc.plan.plan",
    "load_workload": "optalloc.workload",
    "longest_context": "optalloc.serving.offload.solve",
    "max_rate": "optalloc.simulate.requests.max_rate",
    "place_layers": "optalloc.serving.flow.solve",
    "plan_fleet": "optalloc.serving.mix.solve",
    "plan_for_target": "optalloc.export.pins",
    "plan_mixed": "optalloc.training.mixed.solve",
    "plan_mixed_for_target": "optalloc.export.pins",
    "plan_mixed_robust": "optalloc.training.mixed.robust",
    "plan_offload": "optalloc.serving.offload.solve",
    "plan_robust": "optalloc.training.robust",
    "plan_serving": "optalloc.serving.configuration.solve",
    "plan_training": "optalloc.training.solve",
    "recommend": "optalloc.serving.configuration.recommend",
    "replan": "optalloc.plan.replan",
    "run_plan": "optalloc.execute.run",
    "save_assignment": "optalloc.assignment.formats",
    "serving_grid": "optalloc.plan.sweep_serving",
    "shadow_prices": "optalloc.assignment.shadow",
    "simulate": "optalloc.simulate.simulation",
    "simulate_requests": "optalloc.simulate.requests.simulate",
    "solve_assignment": "optalloc.assignment.solve",
    "sweep": "optalloc.plan.sweep",
    "sweep_serving": "optalloc.plan.sweep_serving",
    "total_parameters": "optalloc.model.parameters",
}


class _Package(types.ModuleType):
    """A verb such as ``export`` shares its name with the package behind it: the verb wins."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

__all__ = sorted([*_HOME, "__version__"])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'optalloc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
