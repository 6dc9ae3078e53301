"""What a training YAML comes down to in numbers, worked out from the file alone: the same functions for both sides."""

from __future__ import annotations

from typing import Any

from tpscope.migrate.job import Ranks
from tpscope.migrate.source import number, stated


def facts(kind: str, data: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Samples and tokens per optimizer step, the peak rate, decay, clipping, rank of LoRA; None for what is open."""
    found = _axolotl(data, ranks) if kind == "axolotl" else _nemo(data)
    samples, length = found["samples per step"], found.pop("length")
    found["tokens per step, at most"] = samples * length if samples and length else None
    return found


def _axolotl(data: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    def get(path: str, default: Any = None) -> Any:
        value = number(stated(data, path))
        return default if value is None else value

    micro, total = get("micro_batch_size"), get("batch_size")
    steps = get("gradient_accumulation_steps") or (total // micro if total and micro else 1)
    micro = micro or (total // steps if total else 1)
    clip = get("max_grad_norm", 1.0)
    return {
        "samples per step": micro * steps * ranks.data if ranks.data else None,
        "length": get("sequence_len", 512),
        "peak learning rate": _float(get("learning_rate")),
        "weight decay": _float(get("weight_decay", 0.0)),
        "gradients clipped at": "never" if not clip else _float(clip),
        "LoRA rank": get("lora_r") if get("adapter") else "no LoRA",
        "seed": get("seed", 42),
    }


def _nemo(data: dict[str, Any]) -> dict[str, Any]:
    def get(path: str, default: Any = None) -> Any:
        value = number(stated(data, path))
        return default if value is None else value

    pack = get("packed_sequence.packed_sequence_size", 0)
    length = pack or get("dataset.seq_length") or get("dataset.seq_len") or get("dataset.max_length")
    clip = get("clip_grad_norm.max_norm", 1.0)
    typed = str(get("optimizer._target_", "torch.optim.AdamW")).endswith(("AdamW", "AdamConfig", "AdamWConfig"))
    return {
        "samples per step": get("step_scheduler.global_batch_size", 32),
        "length": length,
        "peak learning rate": _float(get("optimizer.lr", 1.0e-4)),
        "weight decay": _float(get("optimizer.weight_decay", 0.01 if typed else 0.0)),
        "gradients clipped at": "never" if clip >= 1e9 else _float(clip),
        "LoRA rank": get("peft.dim", 8) if isinstance(data.get("peft"), dict) else "no LoRA",
        "seed": get("seed", get("rng.seed", 42)),
    }


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def trained_on(kind: str, data: dict[str, Any], samples: int | None) -> float | None:
    """Samples of an epoch, less what is kept for validation; None where packing joins an unknown number of them."""
    if kind == "nemo":
        return None if number(stated(data, "packed_sequence.packed_sequence_size")) else samples
    kept = number(stated(data, "val_set_size"))
    if samples is None or stated(data, "sample_packing"):
        return None
    kept = kept if isinstance(kept, (int, float)) and not isinstance(kept, bool) else 0
    return samples - (samples * kept if kept < 1 else kept)
