"""A proof: what is asked of a framework, and what was found, parameter by parameter.

Written by `frameworks/inside/proof` with the standard library, read by the parent with pydantic over these classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tpscope.language.answer import Failure, LogLine, TrailLine
from tpscope.language.layout import Layout, Lora
from tpscope.language.verdict import Verdict


class Depth(StrEnum):
    """How much of the framework took part: its plan, its training loop as well, or all of its public entry point."""

    PLAN = "plan"
    LOOP = "loop"
    ENTRY = "entry"


class Cause(StrEnum):
    """What was wrong, by the mend that made the case equal."""

    MISSING_SUM = "missing-sum"
    DOUBLE_REDUCTION = "double-reduction"
    MEAN_NOT_SUM = "mean-not-sum"
    SCALED = "scaled"
    ACCUMULATION = "accumulation"
    WRONG_SLICE = "wrong-slice"
    ADAPTER_LAYOUT = "adapter-layout"
    BIAS_REPEATED = "bias-repeated"
    UNTIED = "untied"
    TRAINABILITY = "trainability"
    INIT_DIFFERS = "init-differs"
    NOT_SHARDED = "not-sharded"
    RNG = "rng"
    DATA = "data"
    DRIFT = "drift"
    HASH_SEED = "hash-seed"
    CLIP_NORM = "clip-norm"
    STATE_DICT = "state-dict"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Scenario:
    """The way people train, beside plain tensor parallelism. Scenarios combine: `lora+sequence-parallel`.

    `micro_batches`: backward passes of each data-parallel rank before a step. `tied`: what `tie_word_embeddings` of
    the config is set to. `mask`: "", "padding" (left out by the attention mask) or "packed" (position ids restart).
    `clip`: largest gradient norm, as a fraction of the reference's norm, so that clipping happens.
    """

    name: str = "plain"
    sequence_parallel: bool = False
    micro_batches: int = 1
    checkpointing: bool = False
    lora: Lora | None = None
    tied: bool | None = None
    dropout: float = 0.0
    data: bool = False
    dp_shard: int = 1
    cp: int = 1
    pp: int = 1
    clip: float | None = None
    steps: int = 0
    resume: bool = False
    compile: bool = False
    mask: str = ""

    def layout(self, tp: int) -> Layout:
        """The mesh of this scenario at a tp size."""
        return Layout(pp=self.pp, dp_shard=self.dp_shard, cp=self.cp, tp=tp, sequence_parallel=self.sequence_parallel)


@dataclass
class ProofRequest:
    """What is asked of every rank of a world. `config` is proof-sized; `folder` is shared by the ranks."""

    framework: str
    version: str
    variant: str
    model: str
    config: dict[str, Any]
    tp: int
    scenario: Scenario
    custom_plan: str | None = None
    remote_code: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    mutation: str = ""
    roots: list[str] = field(default_factory=list)
    folder: str = ""
    seconds: float = 120.0

    @property
    def layout(self) -> Layout:
        """The mesh that is asked for."""
        return self.scenario.layout(self.tp)


@dataclass
class ParameterProof:
    """One parameter: relative error of what was compared worst, and the tolerance measured on the reference.

    `compared` is gradient, value (of the loaded weights), stepped (after the optimizer's steps) or saved.
    """

    name: str
    error: float | None
    tolerance: float
    ranks_agree: bool
    compared: str = "gradient"
    finite: bool = True
    reference_norm: float = 0.0
    placement: str = ""
    trainable: bool = True

    @property
    def equal(self) -> bool:
        """True if this parameter is what the unsharded model has, on every rank."""
        return self.finite and self.ranks_agree and self.error is not None and self.error <= self.tolerance


@dataclass
class Diagnosis:
    """One cause: where it sits, what it did to which parameters, and whether mending it made them equal."""

    cause: Cause
    where: str
    parameters: list[str]
    factor: str
    sentence: str
    repaired: bool
    evidence: list[TrailLine] = field(default_factory=list)
    mend: str = ""


@dataclass
class Shallower:
    """What a shallower depth said of the same case."""

    depth: Depth
    verdict: Verdict
    sentence: str
    loss_error: float | None = None
    forward_error: float | None = None
    different: list[str] = field(default_factory=list)


@dataclass
class ProofAnswer:
    """One case of `tpscope.prove/1`."""

    framework: str
    model: str
    scenario: str
    tp: int
    verdict: Verdict = Verdict.INCONCLUSIVE
    depth: Depth = Depth.PLAN
    model_class: str = ""
    sentence: str = ""
    caveat: str = ""
    loss_error: float | None = None
    loss_tolerance: float | None = None
    forward_error: float | None = None
    forward_tolerance: float | None = None
    ranks_agree: bool | None = None
    parameters: list[ParameterProof] = field(default_factory=list)
    diagnosis: list[Diagnosis] = field(default_factory=list)
    shallower: list[Shallower] = field(default_factory=list)
    exercised: list[str] = field(default_factory=list)
    not_exercised: list[str] = field(default_factory=list)
    shrunk: dict[str, list[Any]] = field(default_factory=dict)
    shims: list[str] = field(default_factory=list)
    error: Failure | None = None
    rank_errors: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    log: list[LogLine] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
