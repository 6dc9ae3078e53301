"""The optimizer, the learning rate of every step and the samples of one, as the framework's own code builds them.

`options`: `data` is what the training YAML says of them, `steps` the number of optimizer steps of the run, `world` and
`others` the ranks and those of them that see the same samples, `parameters` the names and dimensions of what trains.
The numbers are those of the first data rank. A model of these names stands in for the real one, each parameter with one
number in it: names and dimensions are what both frameworks group parameters by.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside import world
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.proof import hf_axolotl, hf_axolotl_trainer
from tpscope.language.measured.trained import Share, Trained

# Groups have these each for itself; the rest is no setting.
_EACH = ("lr", "weight_decay", "params", "initial_lr", "lr_mult", "wd_mult")


def answer(family: str, case: Case, options: dict[str, Any]) -> Trained:
    """What a file trains with."""
    model = named(options["parameters"])
    build = _axolotl if family == "axolotl" else _nemo
    optimizer, advance, samples = build(case, model, options)
    case.phase = "schedule"
    found = Trained(f"{type(optimizer).__module__}.{type(optimizer).__qualname__}", samples=samples)
    found.arguments = {key: _plain(value) for key, value in optimizer.defaults.items() if key not in _EACH}
    first = float(optimizer.param_groups[0]["lr"])
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    for group in optimizer.param_groups:
        # A rate of 0 (a warm-up starts there) says nothing of a group's multiple: then its own setting does.
        multiple = float(group["lr"]) / first if first else float(group.get("lr_mult", 1.0))
        for tensor in group["params"]:
            found.shares[names[id(tensor)]] = Share(float(group.get("weight_decay", 0.0)), round(multiple, 9))
    for _ in range(options["steps"]):
        found.rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        advance()
    return found


def named(parameters: list[list[Any]]) -> nn.Module:
    """Modules that hold parameters of these names, each of its number of dimensions and of one number."""
    root = Named()
    for name, dims in parameters:
        *parents, last = name.split(".")
        node: nn.Module = root
        for part in parents:
            if part not in node._modules:
                node.add_module(part, nn.Module())
            node = node._modules[part]  # type: ignore[assignment]
        node.register_parameter(last, nn.Parameter(torch.zeros([1] * dims)))
    return root


class Named(nn.Module):
    """A model that is nothing but names."""

    def forward(self) -> None:
        """Never called: only its parameters are looked at."""


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (int, float, str, bool)) or value is None else str(value)


def _nemo(case: Case, model: nn.Module, options: dict[str, Any]) -> tuple[torch.optim.Optimizer, Any, int | None]:
    """The recipe's typed sections, built as its `setup` builds them."""
    case.phase = "optimizer"
    node = importlib.import_module("nemo_automodel.components.config.loader").ConfigNode(options["data"])
    recipe = importlib.import_module("nemo_automodel.recipes._typed_config").RecipeConfig(node)
    (optimizer,) = recipe.optimizer.build(model, device_mesh=None, is_peft=False)
    case.phase = "batch"
    samples = _nemo_samples(options)
    case.phase = "schedule"
    section = recipe.lr_scheduler
    if section is None:
        return optimizer, lambda: None, samples
    run = SimpleNamespace(epoch_len=options["steps"], num_epochs=1, max_steps=options["steps"])
    case.shim("an epoch of as many steps as are looked at stands for the length of the data")
    (schedule,) = section.build([optimizer], run)
    return optimizer, lambda: schedule.step(1), samples


def _nemo_samples(options: dict[str, Any]) -> int:
    """What NeMo's step scheduler makes of the batch sizes: micro-batch x accumulation x data ranks."""
    section = dict(options["data"].get("step_scheduler") or {})
    ranks = options["world"] // options["others"]
    local, whole = section.get("local_batch_size", 1), section.get("global_batch_size", 32)
    scheduler = importlib.import_module("nemo_automodel.components.training.step_scheduler").StepScheduler
    made = scheduler(whole, local, ranks, [None] * 64, max_steps=options["steps"])
    return int(made.grad_acc_steps) * local * ranks


def _axolotl(case: Case, model: nn.Module, options: dict[str, Any]) -> tuple[torch.optim.Optimizer, Any, int]:
    """The trainer that Axolotl's builder makes, its optimizer and its schedule."""
    hf_axolotl_trainer.imported()
    case.phase = "batch"
    sizes = {key: options["data"].get(key) for key in ("tensor_parallel_size", "context_parallel_size")}
    with _ranks(options["world"]):
        samples = int(_configured(case, options["data"]).batch_size)
    data = {key: value for key, value in options["data"].items() if key not in sizes}
    case.phase = "optimizer"
    with _ranks(1):
        cfg = _configured(case, data)
        model.config = importlib.import_module("transformers").AutoConfig.from_pretrained(str(case.folder))
        builder_class = importlib.import_module("axolotl.core.builders").HFCausalTrainerBuilder

        class Builder(builder_class):  # type: ignore[misc, valid-type]
            """The builder, with the machine's arguments added where its own hook allows it."""

            def hook_pre_create_training_args(self, training_arguments_kwargs: dict[str, Any]) -> dict[str, Any]:
                given = super().hook_pre_create_training_args(training_arguments_kwargs)
                return given | {"use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False}

        case.shim("the Trainer is built for one rank and the CPU: optimizer and schedule do not depend on them")
        builder = Builder(cfg, model, hf_axolotl.tokenizer())
        builder.train_dataset = [{"input_ids": [1, 2], "labels": [1, 2]}] * 4
        builder.eval_dataset = None
        trainer = builder.build(options["steps"])
        optimizer = trainer.create_optimizer()
        case.phase = "schedule"
        schedule = trainer.create_scheduler(num_training_steps=options["steps"], optimizer=optimizer)
    return optimizer, schedule.step, samples


@contextmanager
def _ranks(size: int) -> Iterator[None]:
    """The variables of a launcher, for the first of `size` ranks; none of them where nobody launched."""
    before = dict(os.environ)
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    for name in names:
        os.environ.pop(name, None)
    try:
        if size > 1:
            world.start(size)
        yield
    finally:
        world.stop()
        os.environ.clear()
        os.environ.update(before)


def _configured(case: Case, data: dict[str, Any]) -> Any:
    """The configuration as `axolotl train` validates and completes it."""
    config = importlib.import_module("axolotl.utils.config")
    made = importlib.import_module("axolotl.utils.dict").DictDefault(
        {**data, "base_model": str(case.folder), "datasets": [{"path": "samples", "type": "completion"}]}
    )
    capabilities = {"bf16": False, "fp8": False, "tf32": False, "n_gpu": 1, "n_node": 1, "compute_capability": "sm_90"}
    environment = {"torch_version": str(torch.__version__).split("+", maxsplit=1)[0]}
    case.shim("of the file, what it says of batch, optimizer and schedule is read; the rest of it is left out")
    valid = config.validate_config(made, capabilities=capabilities, env_capabilities=environment)
    config.normalize_config(valid)
    return valid
