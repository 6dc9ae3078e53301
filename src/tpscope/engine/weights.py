"""Hugging Face checkpoints of a parallelized model: every rank reads its slices, and the whole model is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.tensor import DTensor

from tpscope.engine.collectives import Axis
from tpscope.engine.gradients import pieces
from tpscope.engine.held import Part, axis_of, held, parts
from tpscope.engine.slices import take
from tpscope.engine.state import whole_shape
from tpscope.errors import UserError

_INDEX = "model.safetensors.index.json"


class Folder:
    """The tensors of a folder of safetensors files, by name. Nothing is read before it is asked for."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self._opened: dict[str, Any] = {}
        index = self.folder / _INDEX
        try:
            if index.is_file():
                files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                self._files = {name: self._open(file) for name, file in files.items()}
            else:
                opened = [self._open(path.name) for path in sorted(self.folder.glob("*.safetensors"))]
                self._files = {name: file for file in opened for name in file.keys()}  # noqa: SIM118, no mapping
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise UserError(f"{self.folder}: its safetensors files cannot be read ({error}); save it again") from error
        if not self._files:
            raise UserError(f"{self.folder} holds no *.safetensors; give a folder that save_pretrained wrote")

    def _open(self, name: str) -> Any:
        if name not in self._opened:
            self._opened[name] = safe_open(self.folder / name, framework="pt")
        return self._opened[name]

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def slice(self, name: str) -> Any:
        """The tensor called so, of which slices can be read."""
        return self._files[name].get_slice(name)


def load_pretrained(model: nn.Module, folder: Path | str, device: torch.device | str | None = None) -> None:
    """Fill a parallelized model, also one on meta, from a folder in Hugging Face's format.

    Every rank reads its slices only. Where the class stores its weights in another form than it computes with (experts
    one by one), they are loaded whole by its own `from_pretrained` and then cut. `device`: where weights on meta go to,
    by default the current CUDA device or the CPU. Call it before FSDP. Raises UserError, with nothing loaded, where
    tensors are missing or have other shapes.
    """
    axis = axis_of(model)
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise UserError("load_pretrained reads what tensor parallelism left to a rank; call it before fully_shard")
    place = torch.device(device) if device is not None else _default_device()
    source = Folder(folder)
    found = {name: _stored(model, source, name) for name in _names(model)}
    missing = [name for name, stored in found.items() if stored is None]
    converted = bool(missing) and _converts(model)
    if missing and not converted:
        raise UserError(
            f"{folder}: {len(missing)} of {len(found)} tensors of {type(model).__name__} are missing, {missing[0]} "
            "first; load a checkpoint of this model"
        )
    if not converted:
        _check_shapes(model, source, found, folder)
    _fill_buffers(model, place)
    whole = _loaded_whole(model, folder) if converted else {}
    for part in list(parts(model)):
        name = part.name
        stored = found[name]
        given = take_of(part, whole[name], axis) if converted else _read(part, source.slice(str(stored)), axis)
        _fill(model, part, given, place)
    for name, buffer, owner, leaf in _persistent(model):
        stored = found[name]
        given = whole[name] if converted else source.slice(str(stored))[...]
        cut = held(owner, leaf).cut
        given = given if cut is None else take(given, cut, axis.rank, axis.size)
        owner._buffers[leaf] = given.to(place if buffer.is_meta else buffer.device, buffer.dtype)


def take_of(part: Part, whole: torch.Tensor, axis: Axis) -> torch.Tensor:
    """This rank's slice of a whole parameter."""
    return whole if part.held.cut is None else take(whole, part.held.cut, axis.rank, axis.size)


def _default_device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _names(model: nn.Module) -> list[str]:
    return [part.name for part in parts(model)] + [name for name, *_ in _persistent(model)]


def _persistent(model: nn.Module) -> Iterator[tuple[str, torch.Tensor, nn.Module, str]]:
    """Buffers that a checkpoint holds."""
    for prefix, module in model.named_modules():
        for leaf, buffer in module._buffers.items():
            if buffer is not None and leaf not in module._non_persistent_buffers_set:
                yield f"{prefix}.{leaf}".lstrip("."), buffer, module, leaf


def _stored(model: nn.Module, source: Folder, name: str) -> str | None:
    """The name by which a folder has a tensor: as it is, without the base model's prefix, or under a tied name."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    tensors = dict(model.named_parameters(remove_duplicate=False))
    tied = [other for other, tensor in tensors.items() if name in tensors and tensor is tensors[name]]
    for candidate in [name, *tied]:
        for spelled in (candidate, candidate.removeprefix(prefix)):
            if spelled in source:
                return spelled
    return None


def _converts(model: nn.Module) -> bool:
    """True if transformers knows that this class's weights are stored in another form."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:
        return False
    return hasattr(model, "from_pretrained") and bool(get_model_conversion_mapping(model, add_legacy=False))  # type: ignore[arg-type]


def _loaded_whole(model: nn.Module, folder: Path | str) -> dict[str, torch.Tensor]:
    kind: Any = type(model)
    dtype = next(model.parameters()).dtype
    return dict(kind.from_pretrained(str(folder), dtype=dtype).state_dict())


def _check_shapes(model: nn.Module, source: Folder, found: dict[str, str | None], folder: Path | str) -> None:
    for part in parts(model):
        shape, wanted = tuple(source.slice(str(found[part.name])).get_shape()), tuple(whole_shape(part))
        if shape != wanted:
            raise UserError(
                f"{folder}: {found[part.name]} has shape {list(shape)} where {type(model).__name__} has "
                f"{list(wanted)}; load a checkpoint of this model"
            )


def _read(part: Part, stored: Any, axis: Axis) -> torch.Tensor:
    cut = part.held.cut
    if cut is None:
        whole: torch.Tensor = stored[...]
        return whole
    before = (slice(None),) * cut.dim
    read = [stored[(*before, slice(there, there + length))] for _, there, length, _ in pieces(part, axis)]
    return torch.cat(read, cut.dim)


def _fill(model: nn.Module, part: Part, given: torch.Tensor, place: torch.device) -> None:
    """Put numbers into a parameter; one on meta becomes another object, everywhere that it is used."""
    if not part.tensor.is_meta:
        with torch.no_grad():
            part.tensor.copy_(given)
        return
    made = nn.Parameter(given.to(place, part.tensor.dtype), requires_grad=part.tensor.requires_grad)
    for module in model.modules():
        for leaf, tensor in module._parameters.items():
            if tensor is part.tensor:
                module._parameters[leaf] = made


def _fill_buffers(model: nn.Module, place: torch.device) -> None:
    """Buffers on meta that no checkpoint holds (rotary frequencies): computed by the class's own `_init_weights` of
    the module that has them or of one around it. Before weights are there, since it may touch those too."""
    waiting: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        for leaf, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta and leaf in module._non_persistent_buffers_set:
                odd = float("nan") if buffer.is_floating_point() else torch.iinfo(buffer.dtype).min
                module._buffers[leaf] = torch.full_like(buffer, odd, device=place)
                waiting.setdefault(name, []).append(leaf)
    for name, leaves in waiting.items():
        around = name
        while hasattr(model, "_init_weights"):
            try:
                with torch.no_grad():
                    model._init_weights(model.get_submodule(around))  # type: ignore[operator]
            except AttributeError as error:
                raise UserError(
                    f"{name}.{leaves[0]}: {type(model).__name__} computes it in a way that a model in parts does not "
                    f"bear ({error}); train it without pp"
                ) from error
            if not around or not _unfilled(model.get_submodule(name), leaves):
                break
            around = around.rpartition(".")[0]
    _refuse_unfilled(model, waiting)


def _unfilled(module: nn.Module, leaves: list[str]) -> list[str]:
    found = []
    for leaf in leaves:
        buffer = module._buffers[leaf]
        assert buffer is not None
        kept = buffer.isnan() if buffer.is_floating_point() else buffer == torch.iinfo(buffer.dtype).min
        if bool(kept.any()):
            found.append(leaf)
    return found


def _refuse_unfilled(model: nn.Module, waiting: dict[str, list[str]]) -> None:
    for name, leaves in waiting.items():
        for leaf in _unfilled(model.get_submodule(name), leaves):
            raise UserError(
                f"{name}.{leaf} is on meta, no checkpoint holds it and {type(model).__name__} does not compute it; "
                "make the model on the CPU instead"
            )


def whole_tensors(model: nn.Module, trainable: bool = False) -> dict[str, torch.Tensor]:
    """The whole parameters on the CPU of the first rank, by name; empty on others. Every rank has to call it."""
    axis = axis_of(model)
    first = dist.get_rank() == 0
    found: dict[str, torch.Tensor] = {}
    for part in parts(model):
        if trainable and not part.tensor.requires_grad:
            continue
        whole = whole_of(part, axis)
        if first:
            found[part.name] = whole.cpu()
    return found


def whole_of(part: Part, axis: Axis) -> torch.Tensor:
    """One whole parameter, on every rank."""
    tensor = part.tensor.detach()
    mine = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    cut = part.held.cut
    if cut is None:
        return mine
    whole = mine.new_zeros(whole_shape(part))
    place = 0
    for segment, (begin, end) in zip(cut.segments, cut.ranges(axis.rank, axis.size), strict=True):
        if axis.rank % segment.copies == 0:
            whole.narrow(cut.dim, begin, end - begin).copy_(mine.narrow(cut.dim, place, end - begin))
        place += end - begin
    return axis.sum(whole)


def save_pretrained(model: nn.Module, folder: Path | str) -> None:
    """Write the whole model in Hugging Face's format, by its own `save_pretrained` on the first rank; of a PeftModel
    its adapters in PEFT's.

    The folder appears when it is whole; one that was there is replaced. Every rank has to call it.
    """
    adapters = hasattr(model, "peft_config")
    found = whole_tensors(model, trainable=adapters)
    options = {"save_embedding_layers": False} if adapters else {}
    written(folder, lambda place: model.save_pretrained(place, state_dict=found, **options))  # type: ignore[operator]


def written(folder: Path | str, write: Any) -> None:
    """`write(path)` on the first rank, under a temporary name until it is done; the others wait."""
    final = Path(folder)
    if dist.get_rank() == 0:
        partial, old = final.with_name(f".{final.name}.partial"), final.with_name(f".{final.name}.old")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
        partial.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    dist.barrier()
