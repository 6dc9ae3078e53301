"""The functions that compute, by the name that rows use: one for each direction."""

from __future__ import annotations

from collections.abc import Callable

from tpscope.migrate.how import (
    batch,
    data,
    data_back,
    kernels,
    layout,
    length,
    lora,
    model,
    optimizer,
    run,
    schedule,
    simple,
)
from tpscope.migrate.job import Job

Function = Callable[[Job], None]
HOW: dict[str, dict[str, Function]] = {
    "same": {"nemo": simple.same, "axolotl": simple.same},
    "none": {"nemo": simple.none, "axolotl": simple.none},
    "table": {"nemo": simple.table, "axolotl": simple.table},
    "flag": {"nemo": simple.flag, "axolotl": simple.flag},
    "model": {"nemo": model.to_nemo, "axolotl": model.to_axolotl},
    "overrides": {"nemo": model.overrides_to_nemo, "axolotl": model.overrides_to_axolotl},
    "tokenizer": {"nemo": model.tokenizer_to_nemo, "axolotl": model.tokenizer_to_axolotl},
    "precision": {"nemo": model.precision_to_nemo, "axolotl": model.precision_to_axolotl},
    "attention": {"nemo": model.attention_to_nemo, "axolotl": model.attention_to_axolotl},
    "adapter": {"nemo": lora.adapter_to_nemo, "axolotl": lora.adapter_to_axolotl},
    "targets": {"nemo": lora.targets_to_nemo, "axolotl": lora.targets_to_axolotl},
    "lora-dropout": {"nemo": lora.dropout_to_nemo, "axolotl": lora.dropout_to_axolotl},
    "lora-scale": {"nemo": lora.scale_to_nemo, "axolotl": lora.scale_to_axolotl},
    "size": {"nemo": layout.size, "axolotl": layout.size},
    "experts-parallel": {"nemo": layout.experts_to_nemo, "axolotl": layout.experts_to_axolotl},
    "sharding": {"nemo": layout.sharding_to_nemo, "axolotl": layout.sharding_to_axolotl},
    "offload": {"nemo": layout.offload_to_nemo, "axolotl": layout.offload_to_axolotl},
    "checkpointing": {"nemo": layout.checkpointing_to_nemo, "axolotl": layout.checkpointing_to_axolotl},
    "pipeline": {"nemo": simple.none, "axolotl": layout.pipeline},
    "timeout": {"nemo": run.timeout_to_nemo, "axolotl": run.timeout_to_axolotl},
    "batch": {"nemo": batch.to_nemo, "axolotl": batch.to_axolotl},
    "optimizer": {"nemo": optimizer.to_nemo, "axolotl": optimizer.to_axolotl},
    "decay": {"nemo": optimizer.decay_to_nemo, "axolotl": optimizer.decay_to_axolotl},
    "clip": {"nemo": optimizer.clip_to_nemo, "axolotl": optimizer.clip_to_axolotl},
    "schedule": {"nemo": schedule.to_nemo, "axolotl": schedule.to_axolotl},
    "epochs": {"nemo": schedule.epochs_to_nemo, "axolotl": schedule.epochs_to_axolotl},
    "loss": {"nemo": kernels.to_nemo, "axolotl": kernels.to_axolotl},
    "length": {"nemo": length.to_nemo, "axolotl": length.to_axolotl},
    "datasets": {"nemo": data.to_nemo, "axolotl": data_back.to_axolotl},
    "saving": {"nemo": run.saving_to_nemo, "axolotl": run.saving_to_axolotl},
    "evaluating": {"nemo": run.evaluating_to_nemo, "axolotl": run.evaluating_to_axolotl},
    "save-format": {"nemo": simple.table, "axolotl": run.format_to_axolotl},
    "resume": {"nemo": run.resume_to_nemo, "axolotl": run.resume_to_axolotl},
    "seed": {"nemo": simple.same, "axolotl": run.seed_to_axolotl},
}
