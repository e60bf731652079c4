"""StepModel: the time of one iteration of an engine, in separable terms, and what its memory holds.

    step_s = base_s(prompt tokens, sequences) + kv_s_per_token * context + pair_s * pairs

with T = prompt tokens + sequences (1 + drafted tokens) in a data-parallel group, over the depth:

    base_s = decode * [ roof( dense bytes / b, dense FLOPs T / f )
                      + roof( expert bytes experts_read(r T) / b_e, expert FLOPs r T / f_e )
                      + roof( head bytes / b, head FLOPs sequences / f_16 )
                      + window and state bytes sequences / b_kv + window FLOPs prompt / f_a
                      + reduces (reduce_s + latency + 2 (t-1)/t T h / w) + exchanges (...)
                      + layers layer_s + expert layers expert_layer_s ]
             + step_s + sequence_s sequences + prompt_token_s prompt tokens

roof(x, y) = (x^p + y^p)^(1/p) is a soft maximum: memory and matrix units overlap, but not wholly.
b, f, w are the device's bandwidth, peak and link times their efficiencies. The share of experts
read supposes uniform routing. Every term is a time of one device; a stage of a pipeline holds
``stage_share`` of it.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.device import DeviceSpec
from optalloc.cluster.topology import Link, NodeGroup
from optalloc.cost.engine.constants import (
    EngineConstants,
    EngineFile,
    Errors,
    Value,
    expected_errors,
    read_engine_constants,
    resolved,
)
from optalloc.cost.engine.keys import setup_keys
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.work import Work, engine_work
from optalloc.model.spec import ModelSpec

_MANY_TOKENS = 2.0**20  # of which the weights that an iteration reads are a small part
_NEARLY_ALL = 1.0 - 2.0**-53


class StepModel(msgspec.Struct, frozen=True, kw_only=True):
    """One engine on one kind of device; all fields may be arrays of one entry a setup.

    ``weights_bytes``, ``workspace_bytes`` and ``kv_bytes_per_token`` are of one device,
    ``kv_capacity_tokens`` of a data-parallel group, the tokens that it can cache at once.
    ``chunk_tokens`` and ``max_batch`` are limits of a group, as in :class:`Engine`.
    """

    work: Work
    constants: EngineConstants
    chunk_tokens: Value
    max_batch: Value
    tokens_per_step: Value
    drafted: Value
    errors: Errors

    # -- time ------------------------------------------------------------------------------------

    def base_s(self, prompt_tokens: Value, sequences: Value) -> Value:
        """Seconds of an iteration without what depends on contexts, summed over the stages.

        Parameters
        ----------
        prompt_tokens : float or ndarray
            Tokens of prompts in the iteration, of one data-parallel group.
        sequences : float or ndarray
            Decoding sequences of the group.
        """
        return self.device_s(prompt_tokens, sequences) * self.constants.decode + self.host_s(
            prompt_tokens, sequences
        )

    def device_s(self, prompt_tokens: Value, sequences: Value) -> Value:
        """Seconds of the device for such an iteration, summed over the stages, uncorrected."""
        w, c = self.work, self.constants
        tokens = prompt_tokens + sequences * (1.0 + self.drafted)
        met = tokens * w.groups
        dense = self._roof(
            w.dense_bytes / self._bandwidth, w.dense_flops * tokens / self._matrix_speed
        )
        head = self._roof(
            w.head_bytes / self._bandwidth,
            w.head_flops * sequences / (w.plain_flops_per_s * c.gemm_efficiency),
        )
        windows = w.fixed_kv_bytes * sequences / self._kv_bandwidth
        windows = windows + w.window_flops * prompt_tokens / self._attention_speed
        return (
            dense
            + self._experts_s(met)
            + head
            + windows
            + self._links_s(tokens, met)
            + w.layers * c.layer_s
            + w.expert_layers * c.expert_layer_s
        )

    def shared_s(self, prompt_tokens: Value, sequences: Value) -> Value:
        """Seconds of an iteration that the tokens of all data-parallel groups take together, those
        of the experts; each group has as many as the arguments say. Part of :meth:`base_s`."""
        met = (prompt_tokens + sequences * (1.0 + self.drafted)) * self.work.groups
        exchanges = self.work.exchanges * self._exchange_s(met)
        return self.constants.decode * (self._experts_s(met) + exchanges)

    def _experts_s(self, met: Value) -> Value:
        w, c = self.work, self.constants
        if not np.any(w.routed_flops):
            return 0.0
        return self._roof(
            w.routed_bytes
            * self.experts_read(met)
            / (w.bandwidth_bytes_per_s * c.expert_memory_efficiency),
            w.routed_flops * met / (w.expert_flops_per_s * self._expert_share),
        )

    def kernel_columns(self) -> NDArray[np.float64]:
        """What the native kernel of :meth:`device_s` knows of each setup, without drafted tokens: a
        row for each coefficient of native/serving/iteration.hpp."""
        w, c = self.work, self.constants
        reduce, exchange = (
            2.0 * (ways - 1.0) / ways * w.hidden_bytes / (w.link_bytes_per_s * c.link_efficiency)
            for ways in (w.tp, w.wide)
        )
        columns = (
            w.dense_bytes / self._bandwidth,
            w.dense_flops / self._matrix_speed,
            w.routed_bytes / (w.bandwidth_bytes_per_s * c.expert_memory_efficiency),
            w.routed_flops * w.groups / (w.expert_flops_per_s * self._expert_share),
            np.log(1.0 - np.minimum(w.visited, _NEARLY_ALL)) * w.groups,
            1.0 - c.idle_experts,
            w.head_bytes / self._bandwidth,
            w.head_flops / (w.plain_flops_per_s * c.gemm_efficiency),
            w.fixed_kv_bytes / self._kv_bandwidth,
            w.window_flops / self._attention_speed,
            w.reduces * reduce + w.exchanges * exchange * w.reach * w.groups,
            self._links_s(0.0, 0.0) + w.layers * c.layer_s + w.expert_layers * c.expert_layer_s,
            c.sharpness,
        )
        return np.ascontiguousarray(np.stack(np.broadcast_arrays(*columns)), np.float64)

    def experts_read(self, tokens: Value) -> Value:
        """Share of the experts that an iteration of ``tokens`` tokens of all groups reads: those
        that tokens visit, chosen at random, and of the others those that the kernels read too."""
        left = (1.0 - self.work.visited) ** tokens
        return 1.0 - left * (1.0 - self.constants.idle_experts)

    def host_s(self, prompt_tokens: Value, sequences: Value) -> Value:
        """Seconds of the host in an iteration: scheduling, sampling, preparing inputs."""
        c = self.constants
        return c.step_s + c.sequence_s * sequences + c.prompt_token_s * prompt_tokens

    @property
    def kv_s_per_token(self) -> Value:
        """Seconds for each token of context that decoding sequences read."""
        return self.constants.decode * self.work.kv_bytes / self._kv_bandwidth

    @property
    def pair_s(self) -> Value:
        """Seconds for each pair of a prompt's token and one that it attends to."""
        return self.constants.decode * self.work.pair_flops / self._attention_speed

    def step_s(
        self, prompt_tokens: Value, sequences: Value, context_tokens: Value, pairs: Value = 0.0
    ) -> Value:
        """Seconds of an iteration, summed over the stages.

        ``context_tokens`` are read by the decoding sequences, in all; ``pairs`` are those of a
        prompt's token and one that it attends to.
        """
        return (
            self.base_s(prompt_tokens, sequences)
            + self.kv_s_per_token * context_tokens
            + self.pair_s * pairs
        )

    def latency_s(
        self, prompt_tokens: Value, sequences: Value, context_tokens: Value, pairs: Value = 0.0
    ) -> Value:
        """Seconds that one batch takes through all stages, hops and waits for others included.

        Only decoding waits for other batches: prompts follow each other and keep the stages busy.
        The host prepares the sequences of every stage's batch, one batch after another.
        """
        step = self.step_s(prompt_tokens, sequences, context_tokens, pairs)
        if np.all(self.work.pp == 1.0):
            return step
        decoding = self.step_s(0.0, sequences, context_tokens)
        return self.through_s(step, decoding, prompt_tokens + sequences, sequences)

    def through_s(self, step: Value, decoding: Value, tokens: Value, sequences: Value) -> Value:
        """Seconds through all stages of a batch whose iteration takes ``step``, and ``decoding``
        without its prompts."""
        w, c = self.work, self.constants
        hop = w.link_latency_s + tokens * w.hidden_bytes / w.link_bytes_per_s
        waits = c.bubble / w.pp * decoding
        return step + (w.pp - 1.0) * (hop + waits + c.sequence_s * sequences)

    def prefill_s(self, input_len: Value, prompts: Value = 1.0, prefix_len: Value = 0.0) -> Value:
        """Seconds of the iterations that read ``prompts`` prompts together, in chunks, without
        decoding sequences beside them; each has ``input_len`` tokens after ``prefix_len`` cached
        ones."""
        tokens = input_len * prompts
        chunks = np.maximum(1.0, np.ceil(tokens / self.chunk_tokens))
        pairs = tokens * (prefix_len + (input_len + 1.0) / 2.0)
        whole = chunks * self.base_s(tokens / chunks, 0.0) + self.pair_s * pairs
        return self.constants.prefill * whole + self.constants.prompt_s * prompts

    def prompt_interval_s(self, input_len: Value, prefix_len: Value = 0.0) -> Value:
        """Seconds a prompt where many wait: as many as a chunk holds are read together."""
        prompts = np.maximum(1.0, np.floor(self.chunk_tokens / input_len))
        return self.prefill_s(input_len, prompts, prefix_len) / prompts

    def least_prompt_s(self, input_len: Value, prefix_len: Value = 0.0) -> Value:
        """Seconds a prompt, at least, however many are read together and in whatever chunks: no
        engine reads more of them."""
        pairs = input_len * (prefix_len + (input_len + 1.0) / 2.0)
        whole = input_len / _MANY_TOKENS * self.base_s(_MANY_TOKENS, 0.0)
        return self.constants.prefill * (whole + self.pair_s * pairs) + self.constants.prompt_s

    def another_prompt_s(self, input_len: Value, prefix_len: Value = 0.0) -> Value:
        """Seconds that a further prompt adds to those it is read with: its tokens share the weights
        that an iteration reads; that of a prompt alone where a chunk does not hold both."""
        both = self.prefill_s(input_len, 2.0, prefix_len)
        return both - self.prefill_s(input_len, 1.0, prefix_len)

    @property
    def lag_iterations(self) -> Value:
        """Iterations until a client sees the first token where the engine also decodes: those after
        the prompt, and those for prompts of other ranks of data-parallel attention."""
        c = self.constants
        return c.lag + c.rank_wait * (1.0 - 1.0 / self.work.groups)

    def decode_s(self, sequences: Value, context: Value) -> Value:
        """Seconds of an iteration of ``sequences`` decoding ones of ``context`` tokens each."""
        step = self.step_s(0.0, sequences, sequences * context)
        return self.through_s(step, step, sequences, sequences)

    # -- memory ----------------------------------------------------------------------------------

    @property
    def weights_bytes(self) -> Value:
        """Bytes of weights on the device that holds most."""
        return self.work.weights_bytes

    @property
    def workspace_bytes(self) -> Value:
        """Bytes of activations of one iteration, communication buffers, graphs and runtime."""
        w = self.work
        tokens = np.minimum(self.chunk_tokens, 16384.0)
        return self.constants.reserve_bytes + 8.0 * tokens * w.hidden_bytes

    @property
    def free_bytes(self) -> Value:
        """Bytes of a device that the cache may take; negative if the weights do not fit."""
        return self.work.capacity_bytes - self.weights_bytes - self.workspace_bytes

    def sequence_bytes(self, tokens: Value) -> Value:
        """Bytes of a device for one sequence of ``tokens`` cached tokens."""
        w = self.work
        return (w.kv_bytes * tokens + w.fixed_kv_bytes) * w.stage_share

    @property
    def kv_bytes_per_token(self) -> Value:
        """Bytes of a device for each cached token."""
        return self.work.kv_bytes * self.work.stage_share

    @property
    def kv_capacity_tokens(self) -> Value:
        """Tokens that a data-parallel group can cache; negative if the weights do not fit."""
        return self.free_bytes / np.maximum(self.kv_bytes_per_token, 1e-9)

    def sequences_that_fit(self, tokens: Value) -> Value:
        """Sequences of ``tokens`` cached tokens each that a group holds at once."""
        fit = self.free_bytes / np.maximum(self.sequence_bytes(tokens), 1.0)
        return np.minimum(np.floor(fit), self.max_batch)

    # -- speeds ----------------------------------------------------------------------------------

    @property
    def _bandwidth(self) -> Value:
        return self.work.bandwidth_bytes_per_s * self.constants.memory_efficiency

    @property
    def _kv_bandwidth(self) -> Value:
        return self.work.bandwidth_bytes_per_s * self.constants.kv_efficiency

    @property
    def _attention_speed(self) -> Value:
        return self.work.plain_flops_per_s * self.constants.attention_efficiency

    @property
    def _matrix_speed(self) -> Value:
        return self.work.matrix_flops_per_s * self._share(self.work.matrix_flops_per_s)

    @property
    def _expert_share(self) -> Value:
        return self._share(self.work.expert_flops_per_s) * self.constants.expert_efficiency

    def _share(self, peak: Value) -> Value:
        """Efficiency of products by how far their type's peak is above that of 16 bits."""
        c, ratio = self.constants, peak / self.work.plain_flops_per_s
        small = np.where(np.greater(ratio, 3.0), c.gemm_efficiency_fp4, c.gemm_efficiency_fp8)
        return np.where(np.greater(ratio, 1.2), small, c.gemm_efficiency)

    def _roof(self, stream: Value, compute: Value) -> Value:
        p = self.constants.sharpness
        most, least = np.maximum(stream, compute), np.minimum(stream, compute)
        most = np.maximum(most, 1e-30)
        return most * (1.0 + (least / most) ** p) ** (1.0 / p)

    def _links_s(self, tokens: Value, met: Value) -> Value:
        w, c = self.work, self.constants
        speed = w.link_bytes_per_s * c.link_efficiency
        latency = w.link_latency_s + w.over_network * c.network_s
        reduce = 2.0 * (w.tp - 1.0) / w.tp * tokens * w.hidden_bytes / speed
        reduce = reduce + c.reduce_s + latency
        return w.reduces * reduce + w.exchanges * self._exchange_s(met)

    def _exchange_s(self, met: Value) -> Value:
        w, c = self.work, self.constants
        speed = w.link_bytes_per_s * c.link_efficiency
        exchange = 2.0 * (w.wide - 1.0) / w.wide * met * w.reach * w.hidden_bytes / speed
        latency = w.link_latency_s + w.over_network * c.network_s
        return exchange + c.exchange_s + latency


def step_model(
    model: ModelSpec,
    device: DeviceSpec,
    engine: Engine,
    *,
    group: NodeGroup | None = None,
    campaign: str = "",
    file: EngineFile | None = None,
) -> StepModel:
    """The times and the memory of ``engine`` serving ``model``.

    Parameters
    ----------
    device : DeviceSpec
        The kind of device that the engine runs on.
    group : NodeGroup, optional
        The nodes it lies in, whose links count; default: as many usual nodes of the device as the
        engine needs.
    campaign : str
        A series of measurements whose way of measuring is to be predicted; default: an ordinary
        client's.
    file : EngineFile, optional
        Constants; default: those of the package.

    Complexity: O(number of layer types); about 0.1 ms, less when repeated.
    """
    file = file or read_engine_constants()
    keys = setup_keys(file.levels, model, device, engine, campaign=campaign)
    link, over_network = _stage_link(device, engine.tp * engine.attention_dp, group)
    return StepModel(
        work=engine_work(model, device, engine, link, over_network=over_network),
        constants=resolved(file, keys),
        chunk_tokens=float(engine.chunk_tokens),
        max_batch=float(engine.max_batch),
        tokens_per_step=engine.tokens_per_step,
        drafted=float(engine.draft_tokens),
        errors=expected_errors(file, keys),
    )


def _stage_link(device: DeviceSpec, wide: int, group: NodeGroup | None) -> tuple[Link, bool]:
    """The slowest link among the devices of a stage, and whether that is the network."""
    if group is not None:
        if wide <= group.domain:
            return group.node_link, False
        if wide <= group.devices and group.host_link is not None:
            return group.host_link, False
        return group.network, True
    if wide <= (device.domain_devices or device.devices_per_node):
        bandwidth, latency = device.link_bandwidth_bytes_per_s, device.link_latency_s
        return Link(bandwidth_bytes_per_s=bandwidth, latency_s=latency), False
    bandwidth, latency = device.network_bandwidth_bytes_per_s, device.network_latency_s
    return Link(bandwidth_bytes_per_s=bandwidth, latency_s=latency), True
