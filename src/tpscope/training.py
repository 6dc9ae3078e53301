"""What `import tpscope` offers to those who train: shard a model by a proven plan, and what goes around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from tpscope.engine.adapters import add_adapters, load_adapters
from tpscope.engine.collectives import ProcessAxis
from tpscope.engine.compiled import compile_layers
from tpscope.engine.context import context_parallel, context_part
from tpscope.engine.data_parallel import data_sampler, fully_shard
from tpscope.engine.gradients import clip_grad_norm_, finish_gradients
from tpscope.engine.held import state_of
from tpscope.engine.mesh import build_mesh
from tpscope.engine.parallelize import parallelize as run
from tpscope.engine.pipeline import Pipeline, split
from tpscope.engine.state import last_checkpoint, load_checkpoint, save_checkpoint, state_dict
from tpscope.engine.trainer import trainer
from tpscope.engine.weights import load_pretrained, save_pretrained
from tpscope.errors import UserError
from tpscope.language.sharding import Sharding
from tpscope.plan import files
from tpscope.prove.derived import proven

__all__ = [
    "Pipeline",
    "add_adapters",
    "build_mesh",
    "clip_grad_norm_",
    "compile_layers",
    "context_parallel",
    "context_part",
    "data_sampler",
    "finish_gradients",
    "fully_shard",
    "last_checkpoint",
    "load_adapters",
    "load_checkpoint",
    "load_pretrained",
    "parallelize",
    "save_checkpoint",
    "save_pretrained",
    "split",
    "state_dict",
    "trainer",
]


def parallelize(
    model: nn.Module, mesh: DeviceMesh, plan: Sharding | str | Path = "auto", sequence_parallel: bool = False
) -> nn.Module:
    """Shard a Hugging Face causal LM over the mesh's `tp` axis, in place and also on meta. Returns the model.

    `plan`: "auto" derives and proves one (kept in the cache folder), a path reads what `tpscope plan` wrote. Make the
    optimizer afterwards. Raises UserError, with the model as it was, where there is no proven plan or it does not fit.
    """
    names = mesh.mesh_dim_names
    if names is not None and "tp" not in names:
        raise UserError(f"the mesh has axes {', '.join(names)} and none called tp; build it with tpscope.build_mesh")
    over = mesh["tp"] if names is not None else mesh
    axis = ProcessAxis(over.get_group())
    if axis.size == 1:
        chosen = Sharding(type(model).__name__, type(model).__name__, 1, ())
    elif isinstance(plan, Sharding):
        chosen = plan
    elif plan == "auto":
        chosen = _derived(model, axis)
    else:
        chosen = files.read(Path(plan).read_text(encoding="utf-8"), str(plan))
    run(model, axis, chosen, logits="deferred", sums="step", sequence_parallel=sequence_parallel and axis.size > 1)
    state = state_of(model)
    assert state is not None
    state.mesh = over
    return model


def _derived(model: nn.Module, axis: ProcessAxis) -> Sharding:
    """The proven plan of a model's structure: derived by the first rank of the world, and the same on all."""
    given: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            given = [_proven(model, axis.size)]
        except UserError as error:
            given = [error]
    dist.broadcast_object_list(given, src=0)
    if isinstance(given[0], UserError):
        raise given[0]
    return files.read(given[0], "the derived plan")


def _proven(model: nn.Module, ranks: int) -> str:
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_json_string"):
        raise UserError(
            f"{type(model).__name__} has no Hugging Face config to derive a plan from; give one that tpscope plan wrote"
        )
    published = json.loads(config.to_json_string(use_diff=False))
    published["model_type"] = config.model_type
    return proven(published, ranks, type(model).__name__)
