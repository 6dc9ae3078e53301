"""Losses of each family by the name of their class, called as the framework's own loop calls them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tpscope.frameworks.inside.case import Case, Refused
from tpscope.frameworks.inside.loop_nemo import _LOSS as NEMO_LOSS
from tpscope.frameworks.inside.price import launches
from tpscope.language.answer import Failure
from tpscope.language.verdict import Status

if TYPE_CHECKING:
    from tpscope.frameworks.inside.price.tracer import Tracer

Loss = Callable[[nn.Module, torch.Tensor, "Tracer"], torch.Tensor]
_DEFAULT = "MaskedCrossEntropy"
_PACKAGE = "nemo_automodel.components.loss"
# Where NeMo's losses stand.
_MODULES = {
    _DEFAULT: NEMO_LOSS, "TEParallelCrossEntropy": f"{_PACKAGE}.te_parallel_ce",
    "ChunkedCrossEntropy": f"{_PACKAGE}.chunked_ce", "FusedLinearCrossEntropy": f"{_PACKAGE}.linear_ce",
}  # fmt: skip
LIGER = "LigerFusedLinearCrossEntropy"


def nemo(case: Case, name: str) -> tuple[Loss, str, list[str]]:
    """The loss, its name, and what is assumed of it. Raises Refused where it is not there or is not traced."""
    name = name or _DEFAULT
    kind = getattr(importlib.import_module(_MODULES[name]), name, None) if name in _MODULES else None
    if kind is None:
        raise _missing(f"{case.request.framework} has no loss {name} that is traced; {', '.join(_MODULES)} are known")
    if name == _DEFAULT:
        return _masked(kind()), name, []
    if name == "FusedLinearCrossEntropy":
        raise _missing(
            "FusedLinearCrossEntropy is not modelled: cut_cross_entropy's kernels are Triton, chosen by a table of "
            "their own for a GPU"
        )
    said = []
    if name == "TEParallelCrossEntropy":
        modules = [
            importlib.import_module(f"{_PACKAGE}.{part}") for part in ("triton.te_cross_entropy", "te_parallel_ce")
        ]
        said = launches.stand_in(*modules)
    criterion = kind()
    if getattr(criterion, "compile", False):
        said = [f"{name} compiles its chunks by default: traced eager, which moves more bytes than the compiled one"]
        criterion._compute_loss = importlib.import_module(_MODULES[name])._linear_cross_entropy
    return _calculated(criterion), name, said


def _masked(criterion: Any) -> Loss:
    def loss(model: nn.Module, ids: torch.Tensor, tracer: Tracer) -> torch.Tensor:
        output = model(input_ids=ids)
        logits = getattr(output, "logits", output)
        tracer.enter("loss")
        return _local(criterion(logits, ids))

    return loss


def _calculated(criterion: Any) -> Loss:
    """As `_forward_backward_step` of the recipe calls a loss: hidden states and the head's weight for one that
    projects by itself."""
    try:
        utils = importlib.import_module(f"{_PACKAGE}.utils")
        outputs = importlib.import_module("nemo_automodel.components.training.model_output_utils")
        linear = isinstance(criterion, utils.LinearCrossEntropy)
    except (ImportError, AttributeError) as error:
        words = f"this version of NeMo calls {type(criterion).__name__} in another way, which is not traced ({error})"
        raise _missing(words) from error

    def loss(model: nn.Module, ids: torch.Tensor, tracer: Tracer) -> torch.Tensor:
        launches.told_to(tracer)
        output = model(input_ids=ids, **({"logits_to_keep": 1, "output_hidden_states": True} if linear else {}))
        tracer.enter("loss")
        given: dict[str, Any] = {"logits": getattr(output, "logits", output), "labels": ids, "model": model}
        if linear:
            weight = model.get_output_embeddings().weight
            mesh = getattr(weight, "device_mesh", None)
            group = mesh.get_group() if mesh is not None and mesh.ndim == 1 and mesh.size() > 1 else None
            given["hidden_states"] = outputs.get_final_hidden_states(output)
            given["lm_weight"] = utils.prepare_lm_weight(criterion, model, grad_reduce_group=group)
            given["grad_reduce_group"] = group
        del output
        return _local(utils.calculate_loss(criterion, num_label_tokens=ids.numel(), **given))

    return loss


def hugging_face(model: nn.Module, name: str) -> tuple[Loss, str]:
    """The model's own loss. Raises Refused for another one."""
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = inner.loss_function
    default = getattr(own, "__name__", "")
    if name not in ("", default):
        raise _missing(_no_other(name, default))

    def loss(model: nn.Module, ids: torch.Tensor, tracer: Tracer) -> torch.Tensor:
        def entered(*arguments: Any, **options: Any) -> torch.Tensor:
            tracer.enter("loss")
            value: torch.Tensor = own(*arguments, **options)
            return value

        inner.loss_function = entered
        value: torch.Tensor = model(input_ids=ids, labels=ids).loss
        return value

    return loss, default


def _no_other(name: str, default: str) -> str:
    if name != LIGER:
        return f"transformers has no loss {name} that is traced: its own is {default}"
    try:
        importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
    except ImportError as error:
        return f"{LIGER} is not modelled: its kernels are not in this environment ({error})"
    return f"{LIGER} is not modelled: liger_fused_linear_cross_entropy launches Triton kernels, which need a GPU"


def _local(value: Any) -> torch.Tensor:
    whole: torch.Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole


def _missing(message: str) -> Refused:
    return Refused(Status.UNSUPPORTED, Failure("NotTraced", message, "loss"))
