"""The phases of a proof: reference, plan depth, training loop, what the scenario adds, verdict, diagnosis."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside.case import Refused
from tpscope.frameworks.inside.proof.data import micro_batch, tokens, vocabulary_of
from tpscope.frameworks.inside.proof.driver import Driver, MicroBatch, Step, Training, Work
from tpscope.frameworks.inside.proof.dropout import Mask, Masks, Seed
from tpscope.frameworks.inside.proof.facing import Facing, Groups, decided, everywhere
from tpscope.frameworks.inside.proof.judge import judge
from tpscope.frameworks.inside.proof.mends import Mends
from tpscope.frameworks.inside.proof.mutation import Mutation
from tpscope.frameworks.inside.proof.mutations import MENDED, MUTATIONS
from tpscope.frameworks.inside.proof.record import Recorder
from tpscope.frameworks.inside.proof.reference import (
    MULTIPLE,
    Grads,
    Outcome,
    Place,
    Reference,
    forget,
    gradients,
    refer,
    run,
)
from tpscope.frameworks.inside.proof.round import Round
from tpscope.frameworks.inside.proof.slices import gathered, local_of
from tpscope.frameworks.inside.proof.weights import SEED, write
from tpscope.frameworks.inside.trace import Trail
from tpscope.language.answer import Failure
from tpscope.language.proof import Depth, ProofAnswer
from tpscope.language.verdict import Status

# The seed of torch's generator before anybody sets one (c10::detail::default_rng_seed_val).
_FRESH = 67280421310721


class Proof:
    """One case on one rank, and everything that its phases share."""

    def __init__(self, driver: Driver, answer: ProofAnswer, keep: Callable[[], None] = lambda: None):
        self.driver, self.answer, self.keep = driver, answer, keep
        self.work: Work = driver.work
        self.request, self.scenario = driver.request, driver.request.scenario
        self.groups = Groups(self.work)
        self.batches: dict[Place, MicroBatch] = {}
        self.whole: nn.Module
        self.reference: Reference
        self.started_different: list[str] = []
        kind = {"": Mutation, **MUTATIONS, **MENDED}[self.request.mutation]
        self.mutation = kind(self.work.tp_rank, self.request.tp)
        if self.request.mutation:
            answer.measured["fault"] = {"kind": self.request.mutation, "places": self.mutation.places}
        self.masks: list[Mask] = []
        self.trail: Trail | None = None
        self.whole_masks: list[tuple[int, ...]] = []

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Name what is going on, for errors and timings."""
        self.work.phase = phase
        started = time.perf_counter()
        yield
        self.answer.phases[phase] = round(self.answer.phases.get(phase, 0.0) + time.perf_counter() - started, 3)

    def feed(self, step: int = 0) -> dict[Place, MicroBatch]:
        """The global batch of a step."""
        vocabulary = vocabulary_of(self.request.config)
        return {
            (rank, index): micro_batch(vocabulary, step, rank, index, self.scenario.mask)
            for rank in range(self.scenario.dp_shard)
            for index in range(self.scenario.micro_batches)
        }

    def mine(self, batches: dict[Place, MicroBatch]) -> list[MicroBatch]:
        """This data rank's share of a global batch, in order."""
        return [batch for (rank, _), batch in batches.items() if rank == self.work.dp_rank]

    # Phases

    def write(self) -> None:
        """The checkpoint, once, by rank 0. What it raises, every rank raises."""
        with self.during("checkpoint"):
            problem: Exception | None = None
            if self.work.rank == 0:
                try:
                    write(self.work.checkpoint, self.request.config, self.request.remote_code)
                except Exception as error:  # noqa: BLE001 - raised again below, when the others know of it
                    problem = error
            words = decided(None if problem is None else f"{type(problem).__name__}: {problem}")
            if problem is not None:
                raise problem
            if words is not None:
                raise Refused(Status.UNSUPPORTED, Failure("Checkpoint", words, "checkpoint"))

    def load_whole(self) -> None:
        """The reference model."""
        with self.during("whole"):
            self.whole = self.driver.whole(self.work.checkpoint)
            scatter_adapters(self.whole)
            model = self.whole
            base = model.get_base_model() if hasattr(model, "get_base_model") else model
            self.answer.model_class = f"{type(base).__module__}.{type(base).__qualname__}"

    def refer(self, watch: bool = False) -> None:
        """Run the reference; rank 0 measures its noise for all."""
        self.batches = self.feed()
        total = tokens(list(self.batches.values()))
        first = not watch
        with self.during("reference"), self.still() as masks:
            drawn = (lambda: len(masks.found)) if isinstance(masks, Masks) else (lambda: 0)
            found = refer(self.driver, self.whole, self.batches, total, first and self.work.rank == 0, watch, drawn)
            if isinstance(masks, Masks):
                # The first pass over the batches; what follows it measures noise.
                self.whole_masks = [mask.shape for mask in masks.found[: found.draws]]
            if first:
                found.floors, found.loss_floor, found.logits_floor = decided(
                    (found.floors, found.loss_floor, found.logits_floor)
                )
            else:
                found.floors, found.loss_floor = self.reference.floors, self.reference.loss_floor
                found.logits_floor = self.reference.logits_floor
            given = self.request.training.get("weights")
            if given:
                # How the framework's own loop at tp 1 counts its micro-batches: its definition of the loss.
                found.reweigh(dict(zip(found.parts, given, strict=True)))
            self.reference = found

    def shard(self, mends: Mends | None = None) -> Facing:
        """The model under test, by the framework's own loader, with the whole model's adapter numbers."""
        with self.during("sharded"):
            # What a framework seeds it seeds; the rest is as in a process that has drawn nothing yet, on every rank.
            torch.manual_seed(_FRESH)
            model = self.driver.sharded(self.work.checkpoint)
            facing = Facing(self.work, self.groups, self.whole, model, self.driver.held(model))
            agreed = facing.adapters()
            self.started_different = sorted(name for name, same in agreed.items() if not same)
            if self.request.mutation:
                # Finds which part of each parameter this rank holds: a fault is put where the layout says.
                facing.values()
                self.mutation.on_model(facing)
            if mends:
                mends.on_model(facing)
        return facing

    def around_backward(self, facing: Facing, mends: Mends | None) -> Callable[[nn.Module], Any]:
        """The context of every backward: mends outside, the fault of a self-test inside."""

        @contextlib.contextmanager
        def around(model: nn.Module) -> Iterator[None]:
            watched = self.trail.on() if self.trail else contextlib.nullcontext()
            with (mends or Mends()).around_backward(model), self.mutation.around_backward(facing), watched:
                yield

        return around

    def still(self, seed: Seed = lambda ordinal, shape: None) -> Any:
        """Under the dropout scenario: masks are kept, and keep everything."""
        return Masks(seed) if self.scenario.dropout else contextlib.nullcontext()

    def plan_round(self, facing: Facing, watch: bool = False, mends: Mends | None = None) -> Round:
        """Forward, loss and backward of the sharded model, with nothing of a training loop."""
        found = Round(Depth.PLAN, facing=facing)
        with self.during("plan"):
            forget(facing.model)
            batches = self.mine(self.batches)
            scale = float(self.scenario.dp_shard)
            with self.still():
                outcome = run(
                    self.driver, facing.model, batches, self.reference.tokens, scale, watch,
                    self.around_backward(facing, mends),
                )  # fmt: skip
            self._forward(found, outcome)
            found.records = outcome.records
            found.grads = dict(gradients(facing.model))
            self.mutation.on_gradients(facing, found.grads) if self.scenario.clip is None else None
            if mends:
                mends.on_gradients(facing, found.grads)
            found.rows = judge(facing, found.grads, self.reference, self.reference.plain or self.reference.total)
            found.untied, found.trains_otherwise = facing.untied(), facing.trains_otherwise()
        return found

    def _forward(self, found: Round, outcome: Outcome) -> None:
        places = [place for place in self.batches if place[0] == self.work.dp_rank]
        losses = [
            abs(loss - self.reference.losses[place]) / abs(self.reference.losses[place])
            for place, loss in zip(places, outcome.losses, strict=True)
        ]
        forwards = [
            self._logits_error(logits, self.reference.logits[place])
            for place, logits in zip(places, outcome.logits, strict=True)
        ]
        worst = everywhere((max(losses), max(forwards)))
        found.loss_error, found.forward_error = max(pair[0] for pair in worst), max(pair[1] for pair in worst)
        # Not "greater than": an error that is no number is wrong too.
        found.forward_wrong = not (
            found.forward_error <= self.forward_tolerance and found.loss_error <= self.loss_tolerance
        )

    @property
    def loss_tolerance(self) -> float:
        """Largest relative error of the loss that rounding can explain."""
        return MULTIPLE * max(self.reference.loss_floor, torch.finfo(torch.float64).eps)

    @property
    def forward_tolerance(self) -> float:
        """The same of the logits."""
        return MULTIPLE * max(self.reference.logits_floor, torch.finfo(torch.float64).eps)

    def _logits_error(self, mine: torch.Tensor, whole: torch.Tensor) -> float:
        mine = gathered(mine)
        if mine.shape[-1] != whole.shape[-1]:
            whole = whole.chunk(self.request.tp, -1)[self.work.tp_rank]
        if mine.shape[1] != whole.shape[1]:
            whole = whole.chunk(self.request.tp, 1)[self.work.tp_rank]
        if mine.shape != whole.shape:
            return float("inf")
        return float((mine.to(torch.float64) - whole.to(torch.float64)).norm() / whole.to(torch.float64).norm())

    def loop_round(
        self, facing: Facing, watch: bool = False, mends: Mends | None = None, steps: int = 1,
        seed: Seed | None = None,
    ) -> Round:  # fmt: skip
        """The framework's training loop, up to (and, with several steps, through) its optimizer's step. `seed` gives a
        seed for each dropout, None to leave it to the framework."""
        found = Round(self.driver.depth, facing=facing)
        feeds = [self.feed(step) for step in range(steps)]
        clip = self.clip()

        def before_step(step: Step) -> None:
            if not found.grads:
                found.norm = step.norm
                grads = {name: grad.detach().clone() for name, grad in gradients(step.model).items()}
                facing.model, facing.mine = step.model, facing.renamed(step.model)
                if clip is not None and step.norm is not None:
                    facing.clipped = (clip, step.norm, self.reference.norm())
                self.mutation.on_gradients(facing, grads)
                if mends:
                    mends.on_gradients(facing, grads)
                found.grads = grads
                found.untied, found.trains_otherwise = facing.untied(), facing.trains_otherwise()

        training = Training(
            [self.mine(feed) for feed in feeds], [tokens(list(feed.values())) for feed in feeds], clip, before_step,
            self.around_backward(facing, mends), weight_decay=0.0,
        )  # fmt: skip
        with self.during("loop"):
            forget(facing.model)
            recorder = Recorder(facing.model) if watch else None
            with recorder or contextlib.nullcontext(), self.still(seed or self._seed) as masks:
                self.driver.train(facing.model, training)
            self.masks = masks.found if isinstance(masks, Masks) else []
            found.records = recorder.all if recorder else []
            found.rows = judge(facing, found.grads, self.reference, self._clipped(clip))
            found.trained = facing.model
        return found

    def _seed(self, ordinal: int, shape: tuple[int, ...]) -> int | None:
        """Seeds of a fault of the self-test. An activation is sharded if its shape is not the whole model's."""
        known = ordinal < len(self.whole_masks)
        return self.mutation.seed(ordinal, shape != self.whole_masks[ordinal]) if known else None

    def clip(self) -> float | None:
        """The largest norm that the loop is asked to let through."""
        if self.scenario.clip is None:
            return None
        return round(self.scenario.clip * self.reference.norm(), 6)

    def clip_factor(self, clip: float | None) -> float:
        """What clipping by the true norm multiplies gradients by (torch.nn.utils.clip_grad_norm_)."""
        return 1.0 if clip is None else min(1.0, clip / (self.reference.norm() + 1e-6))

    def _clipped(self, clip: float | None) -> Grads:
        """The reference's gradients as clipping by the true norm leaves them."""
        if clip is None:
            return self.reference.total
        factor = self.clip_factor(clip)
        return {name: grad * factor for name, grad in self.reference.total.items()}


def scatter_adapters(model: nn.Module) -> None:
    """Random numbers into LoRA's matrices: at its zero start the gradient of the first of them is zero."""
    generator = torch.Generator().manual_seed(SEED + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                local = local_of(parameter)
                local.copy_(torch.randn(local.shape, generator=generator, dtype=torch.float64) * 0.1)
