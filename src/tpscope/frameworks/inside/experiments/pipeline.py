"""A model cut into pipeline stages by the framework's own splitter, with its tensor parallelism inside each stage."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from tpscope.frameworks.inside import world
from tpscope.frameworks.inside.case import Case, Refused
from tpscope.frameworks.inside.trace import cite, failure
from tpscope.language.answer import Failure, to_json
from tpscope.language.plan import wildcard
from tpscope.language.verdict import Status

_PIPELINING = "nemo_automodel.components.distributed.pipelining"
_DOCUMENTED = "nemo_automodel/components/distributed/pipelining/config.py"


def answer(family: str, case: Case, options: dict[str, Any]) -> dict[str, Any]:
    """Stages of every pipeline rank, or what was raised; with `schedules`, what each name of a schedule comes to."""
    if family != "nemo":
        message = f"{family} has no splitter that tpscope knows of"
        raise Refused(Status.UNSUPPORTED, Failure("NoSuchSetting", message, "split"))
    found: dict[str, Any] = {"stages": [], "error": None, "schedules": []}
    try:
        for rank in range(case.request.layout.pp):
            found["stages"] += _stages(case, rank, options["schedule"])
    except Exception as error:  # noqa: BLE001 - what the splitter raises is its answer
        found["error"] = to_json(failure(error, "split", case.roots)[0])
    if options.get("schedules"):
        found["schedules"] = [_tried(case, name, where) for name, where in _names(case).items()]
    return found


def _be(rank: int, size: int) -> None:
    """Be one rank of a fake group; `world.start` is always rank 0."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    world.stop()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    dist.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())


def _pipeline(case: Case, rank: int, schedule: str) -> tuple[Any, int]:
    """The framework's AutoPipeline on one pipeline rank, built; and the number of parameters before it was cut."""
    from tpscope.frameworks.inside.nemo import Meshes, build

    layout = case.request.layout
    _be(rank * layout.tp, layout.world)
    meshes = Meshes(case, layout)
    model = build(case, str(case.folder), meshes, "meta")
    pieces = importlib.import_module(f"{_PIPELINING}.autopipeline").AutoPipeline(
        world_mesh=meshes.mesh, moe_mesh=None, pp_schedule=schedule, pp_microbatch_size=1, pp_batch_size=4 * layout.pp,
        device="meta", tp_axis_name="tp",
    )  # fmt: skip
    # The head of a stage may not be there: tying again is for whole models.
    meshes._retie = lambda part: part  # type: ignore[method-assign]
    case.shim("AutoPipeline is given the strategy of the same version as parallelize_fn, on the meta device")
    numbers = sum(parameter.numel() for parameter in model.parameters())

    def shard(part: nn.Module, **_: Any) -> nn.Module:
        return meshes.apply(part)

    pieces.build(model, loss_fn=nn.functional.cross_entropy, parallelize_fn=shard)
    return pieces, numbers


def _stages(case: Case, rank: int, schedule: str) -> list[dict[str, Any]]:
    pieces, numbers = _pipeline(case, rank, schedule)
    return [
        {
            "rank": rank, "index": stage.stage_index, "first": stage.is_first, "last": stage.is_last,
            "modules": _kept(part), "parameters": _placed(part), "whole": numbers,
            "schedule": type(pieces.info.schedule).__name__,
        }
        for stage, part in zip(pieces.info.stages, pieces.parts, strict=True)
    ]  # fmt: skip


def _kept(part: nn.Module, prefix: str = "") -> list[str]:
    """What is left of a stage's model: `model.layers.0 to 15` for a run of layers."""
    found = []
    for name, child in part.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            numbers = [int(key) for key, _ in child.named_children() if key.isdigit()]
            if numbers:
                whole = numbers == list(range(numbers[0], numbers[-1] + 1))
                run = f"{numbers[0]} to {numbers[-1]}" if whole and len(numbers) > 1 else ", ".join(map(str, numbers))
                found.append(f"{path}.{run}")
        elif not prefix and list(child.named_children()):
            found += _kept(child, f"{path}.")
        else:
            found.append(path)
    return found


def _placed(part: nn.Module) -> list[dict[str, Any]]:
    """Parameters of a stage by pattern: how many, of which size, and how they lie on the tp axis."""
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in part.named_parameters():
        placement = "Replicate()"
        if isinstance(parameter, DTensor):
            axes = parameter.device_mesh.mesh_dim_names or ("tp",)
            placement = repr(parameter.placements[axes.index("tp")]) if "tp" in axes else placement
        group = groups.setdefault(
            wildcard(name), {"name": wildcard(name), "count": 0, "numbers": 0, "placement": placement}
        )
        group["count"] += 1
        group["numbers"] += parameter.numel()
    return list(groups.values())


def _names(case: Case) -> dict[str, Any]:
    """Names of schedules: those that the framework's source names as supported, with the line, and torch's own."""
    found: dict[str, Any] = {}
    for root in case.roots:
        file = Path(root, _DOCUMENTED)
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        said = re.search(r"pp_schedule \(.*?Supported values:(.*?)Defaults", text, re.S)
        for name in re.findall(r'"(\w+)"', said[1]) if said else []:
            found[name] = cite(case.roots, _DOCUMENTED, f'"{name}"')
    functional = importlib.import_module(f"{_PIPELINING}.functional")
    try:
        functional.get_schedule_class("a name that nobody gives to a schedule")
    except ValueError as error:
        for name in re.findall(r"'(\w+)'", str(error).partition("valid options")[2]):
            found.setdefault(name, None)
    return found


def _tried(case: Case, name: str, where: Any) -> dict[str, Any]:
    """A pipeline of the model with one schedule, on the first pipeline rank."""
    tried: dict[str, Any] = {"name": name, "where": to_json(where) if where else None, "runs": "", "stages": []}
    try:
        pieces, _ = _pipeline(case, 0, name)
    except Exception as error:  # noqa: BLE001 - what it raises is the answer
        tried["error"] = to_json(failure(error, "schedule", case.roots)[0])
        return tried
    return {
        **tried, "runs": type(pieces.info.schedule).__name__,
        "stages": [stage.stage_index for stage in pieces.info.stages], "error": None,
    }  # fmt: skip
