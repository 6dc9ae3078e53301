"""The proof-sized checkpoint: every parameter random, norms and biases included, so that no mix-up can hide."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

SEED = 20
_SPREAD = 0.2


def settled(config: dict[str, Any], dropout: float) -> dict[str, Any]:
    """The config as it is proven: float64, and nothing random in a forward pass unless dropout was asked for."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found[key] = settled(value, dropout)
        elif key in ("torch_dtype", "dtype"):
            found[key] = "float64"
        elif _random(key, value) and not dropout:
            found[key] = type(value)(0)
        else:
            found[key] = value
    return found


def _random(key: str, value: Any) -> bool:
    named = "dropout" in key or key.endswith("_pdrop") or "jitter" in key
    return named and isinstance(value, (int, float)) and not isinstance(value, bool)


def write(folder: Path, config: dict[str, Any], remote_code: str | None) -> None:
    """Write config.json and weights in Hugging Face's format, by the model class of the installed transformers."""
    if (folder / "ready").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if remote_code:
        for file in Path(remote_code).glob("*.py"):
            (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = _built(folder, remote_code is not None)
    scatter(model)
    model.tie_weights()
    if getattr(model, "generation_config", None) is not None:
        # Before 5.0 a generation config that names a kind of cache and uses none is refused on writing.
        model.generation_config.use_cache = True
    model.save_pretrained(folder)
    if remote_code:
        # Saving names the classes of the custom code by another path; the published config is what users have.
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / f"ready.{os.getpid()}").touch()
    (folder / f"ready.{os.getpid()}").rename(folder / "ready")


def _built(folder: Path, remote: bool) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    extra = {"trust_remote_code": True} if remote else {}
    config = AutoConfig.from_pretrained(str(folder), **extra)
    with torch.device("cpu"):
        return AutoModelForCausalLM.from_config(config, torch_dtype=torch.float64, **extra)


def scatter(model: nn.Module) -> None:
    """Random numbers into every parameter: matrices at unit gain, vectors around what the class starts them at."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.dim() < 2:
                parameter.add_((noise * _SPREAD).to(parameter.dtype))
            else:
                parameter.copy_((noise * parameter.shape[-1] ** -0.5).to(parameter.dtype))
