"""Prove's own case code on the devices of this machine, in float32 or bfloat16 instead of float64 on the CPU.

What it names of the CPU and of float64 is replaced around a case: the dtype of the checkpoint, of the loaders and of
the mixed-precision policy, the device of batches, the backend, and the generator of the noise. Where the device is the
CPU (a rehearsal) the case's own shims for a machine without CUDA stay.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._pytree import tree_map_only

from tpscope.frameworks.inside.case import Refused, status_of
from tpscope.frameworks.inside.proof import (
    facing,
    hf_model,
    hf_trainer,
    noise,
    proof,
    reference,
    run,
    verdict,
    weights,
)
from tpscope.frameworks.inside.proof.driver import Driver, MicroBatch, Work
from tpscope.frameworks.inside.trace import failure
from tpscope.language.proof import ProofAnswer, ProofRequest

# Times the noise floor. Over gloo, in cases of NeMo 0.7.0 and transformers 5.23.0 that are equal in float64, the
# parameter furthest off was at 0.8 floors in float32 and at 0.3 in bfloat16; a gradient in which micro-batches count
# twice was at 13 in bfloat16. There float64's multiple, 32, would be more than the whole gradient.
_MULTIPLE = {"bfloat16": 2.0}


def prove(family: str, request: ProofRequest, rank: int, device: torch.device, dtype: str) -> ProofAnswer:
    """The answer of this rank to one request, in the process group that is there. What the framework raises is the
    answer."""
    answer = ProofAnswer(request.framework, request.model, request.scenario.name, request.tp)
    scratch = Path(request.folder) / f"rank-{rank}"
    scratch.mkdir(parents=True, exist_ok=True)
    request.config = _narrowed(weights.settled(request.config, request.scenario.dropout), dtype)
    work = Work(request, rank, Path(request.folder) / "checkpoint", scratch)
    with _on(family, device, dtype):
        try:
            verdict.prove(_driver(family, work, device), answer, lambda: None)
        except Refused as refusal:
            answer.verdict, answer.error = run._VERDICTS[refusal.status], refusal.error
        except Exception as error:  # noqa: BLE001 - a framework's crash is an answer, never a crash of ours
            found, deliberate = failure(error, work.phase, request.roots)
            answer.error, answer.verdict = found, run._VERDICTS[status_of(error, found, deliberate)]
    if answer.error is not None:
        answer.sentence = f"{answer.error.kind} in {work.phase}: {answer.error.message}"
    answer.shims, answer.exercised = work.shims, list(dict.fromkeys(answer.exercised + work.exercised))
    return answer


def _narrowed(value: Any, dtype: str) -> Any:
    """The same with every word `float64` replaced."""
    if isinstance(value, dict):
        return {key: _narrowed(item, dtype) for key, item in value.items()}
    return dtype if value == "float64" else value


def _driver(family: str, work: Work, device: torch.device) -> Driver:
    """The driver of a family, whose whole and sharded models take batches from the CPU."""
    module = importlib.import_module(f"tpscope.frameworks.inside.proof.{family}_driver")
    base = getattr(module, run._DRIVERS[family])

    class OnDevice(base):  # type: ignore[misc, valid-type]
        """The driver, its inputs moved to the device."""

        def whole(self, checkpoint: Path) -> nn.Module:
            return _moving(super().whole(checkpoint).to(device), device)

        def sharded(self, checkpoint: Path) -> nn.Module:
            return _moving(super().sharded(checkpoint), device)

        def loss(self, model: nn.Module, batch: MicroBatch, tokens: int) -> tuple[torch.Tensor, Any]:
            found: tuple[torch.Tensor, Any] = super().loss(model, _placed(batch, device), tokens)
            return found

    made: Driver = OnDevice(work)
    if family == "nemo":
        # The framework's default, which casts to float32; in float64 proofs the cast is off.
        made._loss = importlib.import_module("nemo_automodel.components.loss.masked_ce").MaskedCrossEntropy()  # type: ignore[attr-defined]
    return made


def _placed(batch: MicroBatch, device: torch.device) -> MicroBatch:
    return {name: value.to(device) for name, value in batch.items()}


def _moving(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with its inputs moved to the device when it is called."""

    def moved(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        return positional, {
            name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in named.items()
        }

    model.register_forward_pre_hook(moved, with_kwargs=True)
    return model


@contextmanager
def _on(family: str, device: torch.device, dtype: str) -> Iterator[None]:
    """Everything that names float64 or the CPU, replaced while a case runs."""
    kind: torch.dtype = getattr(torch, dtype)
    with ExitStack() as stack:

        def put(owner: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(owner, name, value))

        put(weights, "_built", _built(kind))
        for module in (reference, proof):
            put(module, "MULTIPLE", _MULTIPLE.get(dtype, reference.MULTIPLE))
        put(facing, "dist", _Objects(device))
        put(noise.Jitter, "_disturb", _disturb)
        put(facing, "_digest", lambda tensor: tensor.contiguous().cpu().to(torch.float64).numpy().tobytes())
        # The search for a cause sends tensors between ranks by pickle, which ties them to a device.
        put(verdict, "diagnosed", lambda *_: [])
        put(hf_model, "load", _loader(kind, device))
        if device.type == "cuda":
            put(hf_trainer, "arguments", _arguments(hf_trainer.arguments))
        if family == "nemo":
            _nemo(put, device, dtype)
        yield


class _Objects:
    """`torch.distributed`, whose gathered objects hold tensors of this rank's device: a pickled tensor names the device
    of the rank that sent it."""

    def __init__(self, device: torch.device):
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(dist, name)

    def all_gather_object(self, found: list[Any], value: Any, group: Any = None) -> None:
        """Gather over the CPU, then bring tensors to this rank's device."""
        dist.all_gather_object(found, tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), value), group=group)
        found[:] = tree_map_only(torch.Tensor, lambda tensor: tensor.to(self._device), found)


def _built(kind: torch.dtype) -> Any:
    def built(folder: Path, remote: bool) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(str(folder))
        with torch.device("cpu"):
            return AutoModelForCausalLM.from_config(config, dtype=kind)

    return built


def _disturb(self: noise.Jitter, tensor: torch.Tensor) -> None:
    """`Jitter._disturb` with its random bits brought to the tensor's device."""
    if any(stride == 0 for stride in tensor.stride()):
        return
    bits = torch.randint(0, 2, tensor.shape, generator=self._generator, dtype=torch.uint8).to(tensor.device)
    tensor.mul_(1 - bits.to(tensor.dtype) * torch.finfo(tensor.dtype).eps)


def _loader(kind: torch.dtype, device: torch.device) -> Any:
    def load(work: Work, checkpoint: Path, options: dict[str, Any]) -> nn.Module:
        from transformers import AutoModelForCausalLM

        model: nn.Module = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=kind, **options)
        return model if options else model.to(device)

    return load


def _arguments(given: Any) -> Any:
    def arguments(*positional: Any, **named: Any) -> dict[str, Any]:
        return {key: value for key, value in given(*positional, **named).items() if key != "use_cpu"}

    return arguments


def _nemo(put: Any, device: torch.device, dtype: str) -> None:
    """The recipe's config in a dtype, and on CUDA without what stands in for CUDA."""
    nemo_config = importlib.import_module("tpscope.frameworks.inside.proof.nemo_config")
    nemo_recipe = importlib.import_module("tpscope.frameworks.inside.proof.nemo_recipe")
    config, section = nemo_config.recipe_config, nemo_config.model_section

    def in_dtype(*positional: Any, **named: Any) -> dict[str, Any]:
        found: dict[str, Any] = _narrowed(config(*positional, **named), dtype)
        found["loss_fn"].pop("fp32_upcast", None)
        if device.type == "cuda":
            found["dist_env"]["backend"] = "nccl"
        return found

    put(nemo_config, "recipe_config", in_dtype)
    put(nemo_config, "model_section", lambda *given: _narrowed(section(*given), dtype))
    if device.type == "cuda":
        put(nemo_recipe, "here", lambda *_, **__: nullcontext())
        put(nemo_recipe, "_on_cpu", nullcontext)
