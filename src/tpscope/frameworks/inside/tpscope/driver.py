"""tpscope's engine in a proof: a derived plan, weights read by slices, and the loop of examples/finetune.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from tpscope.engine.adapters import add_adapters, load_adapters
from tpscope.engine.collectives import ProcessAxis
from tpscope.engine.compiled import compile_layers
from tpscope.engine.context import context_parallel, context_part
from tpscope.engine.data_parallel import data_sampler, fully_shard
from tpscope.engine.gradients import clip_grad_norm_, finish_gradients
from tpscope.engine.held import parts, state_of
from tpscope.engine.mesh import build_mesh
from tpscope.engine.parallelize import parallelize
from tpscope.engine.pipeline import Pipeline, Stage, split
from tpscope.engine.weights import load_pretrained, save_pretrained
from tpscope.errors import UserError
from tpscope.frameworks.inside import transformers as hf
from tpscope.frameworks.inside.case import Refused
from tpscope.frameworks.inside.proof import hf_model
from tpscope.frameworks.inside.proof.driver import Driver, MicroBatch, Step, Training, Work
from tpscope.frameworks.inside.proof.hf_trainer import compiling
from tpscope.frameworks.inside.proof.slices import Part
from tpscope.language.answer import Failure
from tpscope.language.sharding import (
    Cut,
    Edge,
    EdgeKind,
    Region,
    RegionKind,
    Segment,
    Sharding,
    Share,
    Side,
)
from tpscope.language.verdict import Status

# Divides a layer into forward and backward as inductor does, and generates no code.
_COMPILER = "aot_eager_decomp_partition"


class TpscopeDriver(Driver):
    """On meta `parallelize`, then `load_pretrained`, `add_adapters`, `fully_shard`; a loop; `save_pretrained`."""

    hooks = ("tpscope/engine/",)

    def __init__(self, work: Work):
        super().__init__(work)
        self._model: nn.Module | None = None
        self._mesh: Any = None
        self._stage: Stage | None = None

    def check(self) -> None:
        """Raise for what the engine does not do yet."""
        scenario = self.request.scenario
        hf.know(self.work)  # type: ignore[arg-type]
        lacks = {
            "packed samples over context-parallel ranks": scenario.cp > 1 and scenario.mask == "packed",
            "saving of pipeline stages": scenario.pp > 1 and scenario.resume,
            "a model's own code": self.request.remote_code is not None,
            "a plan of the user's in a proof": self.request.custom_plan is not None,
        }
        for what, asked in lacks.items():
            if asked:
                raise Refused(
                    Status.UNSUPPORTED, Failure("NotThere", f"tpscope's engine does not do {what} yet", "check")
                )

    def whole(self, checkpoint: Path) -> nn.Module:
        """What AutoModelForCausalLM loads, with PEFT's adapters."""
        lora = self.request.scenario.lora
        adapters = (checkpoint / "adapter_config.json").is_file()
        model = hf_model.load(self.work, self.work.checkpoint if adapters else checkpoint, {})
        if adapters:
            from peft import PeftModel

            return PeftModel.from_pretrained(model, str(checkpoint), is_trainable=True)
        return model if lora is None else hf.adapted(lora, model)

    def sharded(self, checkpoint: Path) -> nn.Module:
        """The same on this rank's slices."""
        from transformers import AutoConfig, AutoModelForCausalLM

        scenario = self.request.scenario
        adapters = checkpoint if (checkpoint / "adapter_config.json").is_file() else None
        checkpoint = self.work.checkpoint if adapters else checkpoint
        self._mesh = self._mesh or build_mesh(self.request.layout, "cpu")
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(str(checkpoint))
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, **hf_model.experts(self.work))
            if scenario.pp > 1:
                self._stage = split(model, self._mesh)
        axis = ProcessAxis(self._mesh["tp"].get_group())
        plan = Sharding("", "", 1, ()) if axis.size == 1 else self._plan()
        parallelize(
            model, axis, plan, logits="deferred", sums="step",
            sequence_parallel=scenario.sequence_parallel and axis.size > 1,
        )  # fmt: skip
        state = state_of(model)
        assert state is not None
        state.mesh = self._mesh["tp"]
        load_pretrained(model, checkpoint, "cpu")
        if scenario.lora is not None:
            model = load_adapters(model, adapters) if adapters else self._adapted(model)
        model = hf_model.checkpointed(self.work, model, {"use_reentrant": False})
        if scenario.compile:
            self.work.shim(f"the compiler of every layer is {_COMPILER}: inductor generates other code on a GPU")
            compile_layers(model, compiler=_COMPILER)
        self._model = fully_shard(context_parallel(model, self._mesh), self._mesh)
        return self._model

    def held(self, model: nn.Module) -> dict[int, Part]:
        """What the engine notes of every parameter."""
        axis = self._mesh["tp"]
        rank, size = axis.get_local_rank(), axis.size()
        return {
            id(part.tensor): Part(part.held.cut.dim, pieces=tuple(part.held.cut.ranges(rank, size)))
            for part in parts(model)
            if part.held.cut is not None
        }

    def _plan(self) -> Sharding:
        """The plan that was derived and proven for this model before."""
        if why := self.request.training.get("no_plan"):
            raise Refused(Status.UNSUPPORTED, Failure("NoPlan", why, "plan"))
        return _sharding(self.request.training["plan"])

    def _adapted(self, model: nn.Module) -> nn.Module:
        from peft import LoraConfig

        asked = self.request.scenario.lora
        assert asked is not None
        targets = asked.targets[0] if len(asked.targets) == 1 else list(asked.targets)
        config = LoraConfig(
            r=asked.r, lora_alpha=asked.alpha, lora_dropout=asked.dropout, target_modules=targets, task_type="CAUSAL_LM"
        )
        try:
            return add_adapters(model, config)
        except UserError as error:
            raise Refused(Status.REFUSED, Failure("UserError", str(error), "adapters")) from error

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Gradients are parts until they are finished."""
        yield
        if self._model is not None:
            finish_gradients(self._model)

    def loss(self, model: nn.Module, batch: MicroBatch, tokens: int) -> tuple[torch.Tensor, Any]:
        """The model's own loss, from logits that nobody computes; a proof then looks at them."""
        loss, logits = hf_model.loss(model, batch, tokens)
        return loss, logits.clone()

    def train(self, model: nn.Module, training: Training) -> None:
        """The loop of examples/finetune.py."""
        scenario = self.request.scenario
        groups = (self._mesh["pp"].get_group(),) if scenario.pp > 1 else ()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=training.lr, betas=(0.9, 0.95), eps=training.eps, weight_decay=training.weight_decay
        )
        model.train()
        with compiling(self.work):
            for micro_batches, tokens in zip(training.micro_batches, training.tokens, strict=True):
                for batch in micro_batches:
                    self._backward(model, context_part(batch, self._mesh), tokens, training)
                norm = None
                if training.clip is None:
                    finish_gradients(model)
                else:
                    norm = float(clip_grad_norm_(model, training.clip, groups))
                training.before_step(Step(model, norm))
                optimizer.step()
                optimizer.zero_grad()
        self.work.exercised.append("tpscope.parallelize, load_pretrained, losses without logits, torch.optim.AdamW")

    def _backward(self, model: nn.Module, batch: MicroBatch, tokens: int, training: Training) -> None:
        """FSDP averages over data ranks and parts of sequences; losses are parts of a sum."""
        scenario = self.request.scenario
        factor = scenario.dp_shard * scenario.cp
        if self._stage is not None:
            count = torch.tensor(tokens / factor)
            with training.around_backward(model):
                Pipeline(self._stage, self._mesh, len(batch["input_ids"])).step(batch, count)
            return
        loss, _ = hf_model.loss(model, batch, tokens)
        with training.around_backward(model):
            (loss * factor).backward()

    def save(self, model: nn.Module, folder: Path) -> Path:
        """Whole, in Hugging Face's format; adapters in PEFT's."""
        save_pretrained(model, folder)
        dist.barrier()
        return folder

    def peers(self, samples: int) -> list[list[int]]:
        """PyTorch's loader over the sampler of the data axis."""
        mesh = build_mesh(self.request.layout, "cpu")
        rows = list(range(samples))
        loader = DataLoader(rows, batch_size=2, sampler=data_sampler(rows, mesh), collate_fn=list)  # type: ignore[arg-type]
        return list(loader)


def _sharding(tree: dict[str, Any]) -> Sharding:
    """A plan from its JSON."""
    return Sharding(tree["model"], tree["architecture"], tree["tp"], tuple(_region(item) for item in tree["regions"]))


def _region(tree: dict[str, Any]) -> Region:
    shares = {name: _share(item) for name, item in tree["shares"].items()}
    edges = tuple(Edge(item["module"], Side(item["side"]), EdgeKind(item["kind"])) for item in tree["edges"])
    more = {
        "settings": tree["settings"], "outputs": tuple(tree["outputs"]), "edges": edges, "carries": tree["carries"],
    }  # fmt: skip
    return Region(RegionKind(tree["kind"]), tuple(tree["entries"]), tuple(tree["exits"]), shares, **more)


def _share(tree: dict[str, Any]) -> Share:
    cut = tree["cut"]
    if cut is not None:
        cut = Cut(cut["dim"], tuple(Segment(**item) for item in cut["segments"]), cut["ragged"])
    return Share(cut, tree["summed"], tree["once"])
