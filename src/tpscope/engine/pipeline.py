"""Pipeline stages of a Hugging Face causal LM: a rank keeps its layers under their names; PyTorch's schedule runs them.

A stage is the model itself, with layers of other stages that pass on what they are given. Split before parallelizing:
tensor parallelism is then applied inside of each stage.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from tpscope.engine.held import count_elsewhere, local
from tpscope.engine.leaves import first_changed
from tpscope.engine.regions import outermost_lists
from tpscope.errors import UserError


class Passed(nn.Module):
    """A module of another stage: its first input, unchanged."""

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The identity."""
        return hidden


class Kept(Passed):
    """In the place of a head: keeps its input, whatever the model does to what it takes for logits (a scale, a cap)."""

    hidden: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The identity."""
        self.hidden = hidden
        return hidden

    def taken(self) -> torch.Tensor:
        """The newest input, which is forgotten."""
        found, self.hidden = self.hidden, None
        assert found is not None
        return found


class Stage(nn.Module):
    """A split model, from token ids or hidden states to hidden states or logits.

    `shared` is the embedding in the first and the last stage, where the head is tied to it; its weight has one part of
    its gradient in each.
    """

    def __init__(self, model: nn.Module, index: int, number: int, shared: nn.Module | None = None):
        super().__init__()
        self.model = model
        self.index, self.number = index, number
        self.__dict__["shared"] = shared
        self._given: list[torch.Tensor] = []
        if index:
            layers = model.get_submodule(outermost_lists(model)[0])
            first = next(layer for layer in layers.children() if not isinstance(layer, Passed))
            first.register_forward_pre_hook(self._received, with_kwargs=True)

    shared: Any

    def _received(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """What the stage before sent, whatever the model made of it on the way to its layers (a scale, positions)."""
        if not self._given:
            return args, kwargs
        given = self._given[-1]
        return first_changed((args, kwargs), lambda item: item.shape == given.shape, lambda item: given)[0]

    def forward(self, given: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """`[batch, seq]` of ids in the first stage, else `[batch, seq, hidden]`."""
        self._given = [given] if self.index else []
        found = self.model(**{"inputs_embeds" if self.index else "input_ids": given}, use_cache=False, **kwargs).logits
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        return head.taken() if isinstance(head, Kept) else found


def split(model: nn.Module, mesh: DeviceMesh) -> Stage:
    """Leave this rank's share of the layers in a model, in place, also on meta. Call it before `parallelize`.

    A head that is tied to the embedding stays so: both the first and the last stage have their weight.

    Raises UserError, with the model as it was, where it has fewer layers than stages, or weights besides embedding,
    layers, a norm and a head.
    """
    index, number = mesh["pp"].get_local_rank(), mesh["pp"].size()
    lists = outermost_lists(model)
    layers = model.get_submodule(lists[0]) if len(lists) == 1 else None
    if not isinstance(layers, nn.ModuleList) or len(layers) < number:
        raise UserError(f"{type(model).__name__} has no list of at least {number} layers to make {number} stages of")
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    tied, first, last = embedding.weight is head.weight, index == 0, index == number - 1
    ends = _ends(model, layers, embedding, head)
    size = len(layers)
    for place in range(size):
        if place * number // size != index:
            layers[place] = Passed()
    # Where the head is tied the last stage has the embedding too, unused but for its name.
    gone = [*([] if first or (last and tied) else [embedding]), *([] if last else [head, *ends])]
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if any(child is one for one in gone):
                setattr(module, name, Kept() if child is head else Passed())
    shared = embedding if tied and first != last else None
    if shared is not None and last:
        count_elsewhere(shared)
    return Stage(model, index, number, shared)


def _ends(model: nn.Module, layers: nn.Module, embedding: nn.Module, head: nn.Module) -> list[nn.Module]:
    """Modules with weights besides embedding, layers and head: norms behind the layers."""
    known = {id(part) for root in (layers, embedding, head) for part in root.modules()}
    found = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if id(module) in known or not own:
            continue
        if any(parameter.dim() > 1 for parameter in own):
            raise UserError(f"{name} is neither embedding, layer, norm nor head, and no stage is known for it")
        found.append(module)
    return found


class Pipeline:
    """Steps of a pipeline: 1F1B over micro-batches of a batch's samples."""

    def __init__(self, stage: Stage, mesh: DeviceMesh, micro_batches: int):
        device = next(stage.parameters()).device
        made = PipelineStage(stage, stage.index, stage.number, device, group=mesh["pp"].get_group())
        self._stage, self._group = stage, mesh["pp"].get_group()
        self._tokens: torch.Tensor | None = None
        self._shifted = False
        self._schedule = Schedule1F1B(made, micro_batches, loss_fn=self._loss, scale_grads=False)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        model: Any = self._stage.model
        found: torch.Tensor = model.loss_function(
            logits=logits, labels=labels, vocab_size=logits.shape[-1], num_items_in_batch=self._tokens,
            shift_labels=labels if self._shifted else None,
        )  # fmt: skip
        return found

    def step(self, batch: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor | None:
        """Forward and backward of a batch whose loss is the sum over labels divided by `tokens`; the loss in the last
        stage, None in others. With context parallelism it is what `context_part` gives."""
        self._tokens, self._shifted = tokens, "shift_labels" in batch
        known = ("input_ids", "labels", "shift_labels")
        more: dict[str, Any] = {name: item for name, item in batch.items() if name not in known}
        losses: list[torch.Tensor] = []
        given = (batch["input_ids"],) if self._stage.index == 0 else ()
        last = self._stage.index == self._stage.number - 1
        target: dict[str, Any] = {"target": batch["labels"], "losses": losses} if last else {}
        before = self._set_aside()
        self._schedule.step(*given, return_outputs=False, **target, **more)
        self._add_up(before)
        return torch.stack(losses).sum().detach() if last else None

    def _set_aside(self) -> torch.Tensor | None:
        """What earlier steps left as the gradient of a shared weight, whose parts are added up already."""
        shared = self._stage.shared
        if shared is None:
            return None
        before, shared.weight.grad = shared.weight.grad, None
        return before

    def _add_up(self, before: torch.Tensor | None) -> None:
        """The first and the last stage exchange their parts of the gradient of a shared weight."""
        shared = self._stage.shared
        if shared is None or shared.weight.grad is None:
            return
        mine = local(shared.weight.grad)
        given, found, peer = mine.contiguous(), torch.empty_like(mine), self._stage.number - 1 - self._stage.index
        orders = [dist.P2POp(way, item, group=self._group, group_peer=peer)
                  for way, item in ((dist.isend, given), (dist.irecv, found))]  # fmt: skip
        for work in dist.batch_isend_irecv(orders):
            work.wait()
        mine.add_(found)
        if before is not None:
            mine.add_(local(before))
