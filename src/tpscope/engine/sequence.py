"""Sequence parallelism: between regions a rank has its part of the sequence (arXiv:2205.05198).

From the first layer's input to the last layer's output activations are `[batch, seq / ranks, hidden]`; a region gathers
them in front and leaves its part of the sum behind. What lies between (norms, residuals) sees each token on one rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import nn

from tpscope.engine.collectives import SequenceAxis, part_of_sequence, whole_sequence
from tpscope.engine.leaves import first_changed
from tpscope.engine.regions import layers_of
from tpscope.errors import UserError
from tpscope.language.sharding import Region, RegionKind


@dataclass
class Stream:
    """The activations between regions. `length`: tokens of the whole sequence in the newest forward pass."""

    axis: SequenceAxis
    length: int = 0

    def is_part(self, item: Any) -> bool:
        """True for activations of which this rank has its part."""
        return _activations(item) and item.shape[1] * self.axis.size == self.length


def _activations(item: Any) -> bool:
    return isinstance(item, torch.Tensor) and item.is_floating_point() and item.dim() >= 3


def between(model: nn.Module, regions: Sequence[Region]) -> tuple[nn.Module, nn.Module, list[str]]:
    """The first and the last layer, and the parameters of layers outside of regions, where a rank sees its tokens.

    Raises UserError where sequence parallelism is not known to be right.
    """
    inner = [region for region in regions if region.kind is RegionKind.SUM]
    lists = layers_of(model, inner)
    if len(lists) != 1:
        raise UserError(
            f"sequence_parallel: the plan's regions lie in {len(lists)} lists of layers ({', '.join(lists) or 'none'}) "
            "where one is expected; parallelize without it"
        )
    layers = [layer for layer in model.get_submodule(lists[0]).children() if any(True for _ in layer.parameters())]
    shared = {name for region in inner for name in region.shares}
    # What a region holds besides is given whole sequences there, and has whole gradients.
    within = tuple(f"{entry}." for region in inner for entry in region.entries)
    outside = []
    for name, tensor in model.named_parameters(remove_duplicate=False):
        if name.startswith(f"{lists[0]}.") and name not in shared and not name.startswith(within):
            if tensor.dim() > 1:
                raise UserError(
                    f"sequence_parallel: {name} is in no region of the plan, and whether its module works token by "
                    "token is not known; parallelize without it"
                )
            outside.append(name)
    return layers[0], layers[-1], outside


def around(model: nn.Module, region: Region) -> Region:
    """The region with one entry at the module that holds all of it, where nothing else has parameters there.

    A module may read the length of its input before it comes to an entry further inside (`view` of a projection).
    """
    if region.kind is not RegionKind.SUM:
        return region
    parts = [name.split(".") for name in (*region.entries, *region.exits)]
    common = ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False)))
    if not common or isinstance(model.get_submodule(common), nn.ModuleList) or common in region.entries:
        return region
    own = {f"{common}.{name}" for name, _ in model.get_submodule(common).named_parameters()}
    return replace(region, entries=(common,)) if own <= set(region.shares) else region


def install(stream: Stream, first: nn.Module, last: nn.Module) -> None:
    """Hooks where the sequence is shared out, and where it becomes whole again."""

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        def share_out(item: torch.Tensor) -> torch.Tensor:
            ranks, length = stream.axis.size, item.shape[1]
            stream.length = length
            if length % ranks == 0:
                return part_of_sequence(item, stream.axis)
            if torch.is_grad_enabled():
                raise UserError(
                    f"sequence_parallel: a sequence of {length} tokens cannot be shared out over {ranks} ranks; pad "
                    f"batches to a multiple of {ranks}"
                )
            return item  # generating, token by token: the regions add up whole sequences

        given, found = first_changed((args, kwargs), _activations, share_out)
        if not found:
            raise UserError(
                f"sequence_parallel: {type(module).__name__} is given no activations [batch, seq, hidden]; parallelize "
                "without it"
            )
        return given

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        return first_changed(output, stream.is_part, lambda item: whole_sequence(item, stream.axis))[0]

    first.register_forward_pre_hook(before, with_kwargs=True)
    last.register_forward_hook(after)
