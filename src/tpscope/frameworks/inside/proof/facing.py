"""A sharded model facing the whole one: which part of each parameter a rank holds, and how far off its gradients
are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from tpscope.frameworks.inside.proof import slices
from tpscope.frameworks.inside.proof.driver import Work
from tpscope.frameworks.inside.proof.reference import parameters
from tpscope.frameworks.inside.proof.slices import WHOLE, Part

_WHOLE_CLAIMS = ("R", "Replicate()")


@dataclass
class Groups:
    """Process groups of ours, apart from the framework's: the ranks that differ in tp alone."""

    work: Work
    tp: Any = None
    ranks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        size, world = self.work.request.tp, self.work.request.layout.world
        for first in range(0, world, size):
            ranks = list(range(first, first + size))
            group = dist.new_group(ranks)
            if self.work.rank in ranks:
                self.tp, self.ranks = group, ranks

    def over_tp(self, value: Any) -> list[Any]:
        """The value of each tp rank, in order."""
        found: list[Any] = [None] * len(self.ranks)
        dist.all_gather_object(found, value, group=self.tp)
        return found


def everywhere(value: Any) -> list[Any]:
    """The value of each rank of the world."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def decided(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def blocks(config: dict[str, Any]) -> list[tuple[int, ...]]:
    """How fused weights of this config may be laid out along their fused dimension: q, k, v; halves."""
    text = next((config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), dict)), config)
    heads = text.get("num_attention_heads") or text.get("n_head")
    hidden = text.get("hidden_size") or text.get("n_embd")
    found: list[tuple[int, ...]] = []
    if isinstance(heads, int) and isinstance(hidden, int):
        dim = text.get("head_dim") or hidden // heads
        kv = text.get("num_key_value_heads") or heads
        if isinstance(kv, int):
            found.append((heads * dim, kv * dim, kv * dim))
            found.append((heads * dim, 2 * kv * dim))
    for key in ("intermediate_size", "moe_intermediate_size", "ffn_dim"):
        if isinstance(text.get(key), int):
            found.append((text[key], text[key]))
    return found


class Facing:
    """One sharded model on this rank, and the whole model's parameters."""

    def __init__(
        self, work: Work, groups: Groups, whole: nn.Module, model: nn.Module, held: Mapping[int, Part] | None = None
    ):
        self.work, self.groups, self.model = work, groups, model
        self.size = work.request.tp
        self.whole = {name: tensor.detach() for name, tensor in parameters(whole).items()}
        self.whole_trains = {name: tensor.requires_grad for name, tensor in parameters(whole).items()}
        self.mine = parameters(model)
        self.said = {name: held[id(tensor)] for name, tensor in self.mine.items() if held and id(tensor) in held}
        self.parts: dict[str, Part] = {}
        self.recuts: set[str] = set()
        self.clipped: tuple[float, float, float] | None = None
        self.blocks = blocks(work.request.config)
        self.missing = sorted(set(self.whole) - set(self.mine))
        self.extra = sorted(set(self.mine) - set(self.whole))

    def adapters(self) -> dict[str, bool]:
        """Give LoRA's matrices the whole model's numbers. Returns for each whether its replicas agreed before that."""
        agreed: dict[str, bool] = {}
        for name, tensor in self.mine.items():
            if ".lora_" not in name or name not in self.whole:
                continue
            whole, claim = self.whole[name], slices.on_tp(tensor)
            own = slices.gathered(tensor.detach())
            part = self.said.get(name) or slices.by_shape(own.shape, whole.shape, self.size)
            expected = None if part is None else part.of(whole, self.work.tp_rank, self.size)
            if part is None or expected is None or expected.shape != own.shape:
                # No part of the whole has this shape: the framework's own forward will say what it makes of it.
                continue
            if part == WHOLE:
                agreed[name] = len({_digest(value) for value in self.groups.over_tp(own)}) == 1
            if not claim or part != WHOLE:
                self.parts[name] = part
            self._fill(tensor, expected)
        return agreed

    def _fill(self, tensor: torch.Tensor, own: torch.Tensor) -> None:
        from torch.distributed.tensor import distribute_tensor

        with torch.no_grad():
            if isinstance(tensor, DTensor):
                mesh = tensor.device_mesh
                own = distribute_tensor(own.to(tensor.dtype), mesh, tensor.placements, src_data_rank=None)._local_tensor
            slices.local_of(tensor).copy_(own)

    def values(self, keep: Collection[str] = ()) -> dict[str, float]:
        """Relative error of every loaded parameter; finds this rank's part of each on the way, but for those to
        `keep`."""
        errors: dict[str, float] = {}
        for name, tensor in self.mine.items():
            whole = self.whole.get(name)
            if whole is None or name in keep:
                continue
            own = slices.gathered(tensor.detach())
            if slices.on_tp(tensor):
                errors[name] = 0.0 if own.shape == whole.shape and torch.equal(own, whole) else _relative(own, whole)
                continue
            if name in self.said:
                self.parts[name] = self.said[name]
                errors[name] = _relative(own, self.said[name].of(whole, self.work.tp_rank, self.size))
                continue
            part = slices.find(own, whole, self.work.tp_rank, self.size, self.blocks)
            guess = part or slices.by_shape(own.shape, whole.shape, self.size)
            if guess is not None:
                self.parts[name] = guess
            if part is None:
                wanted = guess.of(whole, self.work.tp_rank, self.size) if guess else None
                errors[name] = _relative(own, wanted) if wanted is not None else float("inf")
            else:
                errors[name] = 0.0
        return errors

    def renamed(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters of the model as a training loop holds it, by the names of the whole model where wrapping
        has put something in front of them."""
        found = parameters(model)
        if set(found) & set(self.whole) or not found:
            return found
        return {name.partition(".")[2]: tensor for name, tensor in found.items()}

    def untied(self) -> bool:
        """True if two names are one parameter in the whole model and are two in the sharded one."""
        groups: dict[int, list[str]] = {}
        for name, tensor in self.whole.items():
            groups.setdefault(tensor.data_ptr(), []).append(name)
        return any(len({id(self.mine[name]) for name in names if name in self.mine}) > 1 for names in groups.values())

    def trains_otherwise(self) -> list[str]:
        """Parameters that train here and not in the whole model, or the reverse."""
        return [
            name
            for name, tensor in self.mine.items()
            if name in self.whole_trains and tensor.requires_grad != self.whole_trains[name]
        ]

    def claim(self, name: str, tensor: torch.Tensor | None = None) -> str:
        """What the parameter (or a tensor like it) says of itself on the tp axis. One that says it is whole and has
        the shape of a part (an adapter made in the size of a shard, wrapped afterwards) is not believed."""
        claim = slices.on_tp(self.mine[name] if tensor is None else tensor)
        part = self.parts.get(name, WHOLE)
        return "" if claim in _WHOLE_CLAIMS and part != WHOLE else claim

    def parts_by_claim(self) -> dict[str, int | None]:
        """The dimension on which each parameter is cut over tp, None where it is not."""
        found: dict[str, int | None] = {}
        for name, tensor in self.mine.items():
            claim = self.claim(name, tensor)
            if claim:
                digits = "".join(character for character in claim if character.isdigit())
                found[name] = int(digits[0]) if digits else None
            elif name in self.parts:
                found[name] = self.parts[name].dim
        return found

    def recut(self, name: str, sizes: tuple[int, ...]) -> None:
        """Load this rank's part of a parameter anew: of each of the blocks, or as its shape says."""
        tensor, whole = self.mine[name], self.whole[name]
        mine = slices.on_this_tp_rank(tensor.detach())
        part = Part(0, sizes) if sizes else slices.by_shape(mine.shape, whole.shape, self.size)
        if part is None:
            return
        local, wanted = slices.local_of(tensor.detach()), part.of(whole, self.work.tp_rank, self.size)
        with torch.no_grad():
            # FSDP cuts what tensor parallelism leaves once more, in rows.
            local.copy_(wanted if local.shape == wanted.shape else _rows_of(wanted, tensor))
        # From here on values decide about this parameter, whatever its DTensor says of its rows.
        self.parts[name] = part
        self.recuts.add(name)

    def retie(self) -> None:
        """Put one parameter where the whole model has one."""
        groups: dict[int, list[str]] = {}
        for name, tensor in self.whole.items():
            groups.setdefault(tensor.data_ptr(), []).append(name)
        for names in groups.values():
            first, *rest = [name for name in names if name in self.mine]
            for name in rest:
                owner, _, leaf = name.rpartition(".")
                setattr(self.model.get_submodule(owner), leaf, self.mine[first])
                self.mine[name] = self.mine[first]

    def norm(self, grads: Mapping[str, torch.Tensor], times: float) -> float:
        """The norm over all ranks of gradients that each rank multiplies by a number of its own: what is cut over tp
        summed up, what every rank holds whole counted once."""
        cut = whole = 0.0
        for name, grad in {id(self.mine[name]): (name, grad) for name, grad in grads.items()}.values():
            square = float(slices.gathered(grad.detach()).to(torch.float64).norm() * times) ** 2
            if self.claim(name, grad) or self.parts.get(name, WHOLE) == WHOLE:
                whole += square
            else:
                cut += square
        ranks = self.groups.over_tp((cut, whole))
        return float((sum(one[0] for one in ranks) + ranks[0][1]) ** 0.5)

    def placement(self, name: str) -> str:
        """Where the parameter is on the tp axis: as its DTensor says, or as its values show."""
        claim = self.claim(name)
        if not claim:
            return str(self.parts.get(name, ""))
        return "Replicate()" if claim == "R" else claim.replace("S(", "Shard(dim=") if claim.startswith("S(") else claim

    def replicated(self, name: str) -> bool:
        """True if every tp rank holds all of this parameter (of its data-parallel share of it)."""
        claim = self.claim(name)
        return claim in _WHOLE_CLAIMS if claim else self.parts.get(name) == WHOLE

    def pair(self, name: str, tensor: torch.Tensor, whole: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A tensor of this parameter's shape on this rank, and what the whole one says it should be."""
        if name in self.recuts:
            own, claim = slices.on_this_tp_rank(tensor.detach()), ""
        else:
            own, claim = slices.gathered(tensor.detach()), self.claim(name, tensor)
        if claim:
            return (own, whole) if own.shape == whole.shape else None
        part = self.parts.get(name) or slices.by_shape(own.shape, whole.shape, self.size)
        if part is None:
            return None
        expected = part.of(whole, self.work.tp_rank, self.size)
        return (own, expected) if expected.shape == own.shape else None


def _rows_of(wanted: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """The rows that this rank's place on the axes beside tp gives it."""
    assert isinstance(tensor, DTensor)
    for axis, name in enumerate(tensor.device_mesh.mesh_dim_names or ()):
        if name != "tp" and not tensor.placements[axis].is_replicate():
            rank, size = tensor.device_mesh.get_local_rank(axis), tensor.device_mesh.size(axis)
            wanted = wanted.chunk(size, 0)[rank]
    return wanted


def _digest(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def _relative(mine: torch.Tensor, wanted: torch.Tensor) -> float:
    if mine.shape != wanted.shape:
        return float("inf")
    return float(
        (mine.to(torch.float64) - wanted.to(torch.float64)).norm() / (wanted.norm().to(torch.float64) + 1e-300)
    )
