"""transformers' Trainer on real ranks: its own `train`, fed with given micro-batches, watched before every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from tpscope.frameworks.inside.proof.driver import MicroBatch, Step, Training, Work

# Traces and differentiates as the default does; what inductor generates for a CPU says nothing of a GPU.
COMPILER = "aot_eager"


def arguments(work: Work, training: Training | None, **more: Any) -> dict[str, Any]:
    """What a user would write into TrainingArguments for this case."""
    scenario = work.request.scenario
    given: dict[str, Any] = {
        "output_dir": str(work.scratch / "trainer"), "use_cpu": True, "report_to": [], "save_strategy": "no",
        "logging_strategy": "no", "eval_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False,
        "per_device_train_batch_size": 2,
    }  # fmt: skip
    if scenario.checkpointing:
        given["gradient_checkpointing"] = True
    if scenario.compile:
        given |= {"torch_compile": True, "torch_compile_backend": COMPILER}
    if training is not None:
        given |= {
            "max_steps": len(training.micro_batches), "optim": "adamw_torch", "lr_scheduler_type": "constant",
            "gradient_accumulation_steps": len(training.micro_batches[0]), "learning_rate": training.lr,
            "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": training.eps, "weight_decay": training.weight_decay,
            "max_grad_norm": 0.0 if training.clip is None else training.clip,
            "per_device_train_batch_size": len(training.micro_batches[0][0]["input_ids"]),
        }  # fmt: skip
    return given | more


def fresh(work: Work) -> None:
    """Forget accelerate's state of an earlier case, and let it treat the ranks of a CPU as it treats those of GPUs: for
    MULTI_CPU it leaves FSDP out without a word and refuses a ParallelismConfig."""
    from accelerate.state import AcceleratorState, DistributedType, GradientState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    work.shim("the Trainer runs with use_cpu on gloo instead of CUDA and NCCL")
    work.shim("accelerate is told MULTI_GPU where it finds MULTI_CPU; its device stays the CPU")
    start = PartialState.__init__
    work.shim("the label of a row's first token is -100: nothing predicts it, and Trainers before 5.12 count it")
    if getattr(start, "told", False):
        return

    def told(self: Any, *given: Any, **options: Any) -> None:
        start(self, *given, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    told.told = True  # type: ignore[attr-defined]
    PartialState.__init__ = told


class Feed:
    """Micro-batches of all steps, in order, as a dataset of batches.

    The first label of a row is predicted by nothing; Trainers before 5.12 count it nevertheless, so it is left out.
    """

    def __init__(self, training: Training):
        self.rows: list[MicroBatch] = [dict(batch) for step in training.micro_batches for batch in step]
        for row in self.rows:
            row["labels"] = row["labels"].clone()
            row["labels"][:, 0] = -100

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> MicroBatch:
        return {name: value.clone() for name, value in self.rows[index].items()}


def watched(base: type, training: Training) -> type:
    """A Trainer class that is `base` but for its data loader, and reports before every optimizer step."""
    from transformers import TrainerCallback

    class Before(TrainerCallback):
        """Calls back when the loop has done with the gradients what it does."""

        def __init__(self, trainer: Any):
            self.trainer = trainer

        def on_pre_optimizer_step(self, *_: Any, **options: Any) -> None:
            training.before_step(Step(self.trainer.model, _number(self.trainer.seen_norm)))
            self.trainer.seen_norm = None

    class Watched(base):  # type: ignore[misc, valid-type]
        """The Trainer, fed with the micro-batches of a case."""

        def __init__(self, *positional: Any, **named: Any):
            self.seen_norm: Any = None
            super().__init__(*positional, **named)
            self.add_callback(Before(self))
            backward, clip = self.accelerator.backward, self.accelerator.clip_grad_norm_

            def in_backward(*given: Any, **options: Any) -> None:
                with training.around_backward(self.model):
                    backward(*given, **options)

            def in_clip(*given: Any, **options: Any) -> Any:
                self.seen_norm = clip(*given, **options)
                return self.seen_norm

            self.accelerator.backward = in_backward
            self.accelerator.clip_grad_norm_ = in_clip

        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(Feed(training), batch_size=None, shuffle=False)

    if hasattr(base, "_get_grad_norm"):

        def norm(self: Any, *given: Any, **options: Any) -> Any:
            self.seen_norm = base._get_grad_norm(self, *given, **options)
            return self.seen_norm

        Watched._get_grad_norm = norm
    return Watched


def train(work: Work, model: nn.Module, training: Training) -> Any:
    """`Trainer.train()` of a loaded model. Returns the Trainer."""
    from transformers import Trainer, TrainingArguments

    fresh(work)
    with compiling(work):
        settings = TrainingArguments(**arguments(work, training))
        trainer = watched(Trainer, training)(model=model, args=settings)
        trainer.train()
    work.exercised.append("transformers.Trainer.train, accelerate, torch.optim.AdamW")
    return trainer


@contextmanager
def compiling(work: Work) -> Iterator[None]:
    """torch.compile on for the `compile` scenario; workers have it off."""
    if not work.request.scenario.compile:
        yield
        return
    import torch._dynamo

    work.shim(f"torch_compile_backend is {COMPILER}: inductor generates other code on a GPU")
    before = torch._dynamo.config.disable
    torch._dynamo.config.disable = False
    try:
        yield
    finally:
        torch._dynamo.config.disable = before


def bare(work: Work, model: nn.Module, rows: list[dict[str, Any]] | None = None) -> Any:
    """A Trainer that does not train: to save a model, or for its data loader."""
    from transformers import Trainer, TrainingArguments

    fresh(work)
    settings = TrainingArguments(**arguments(work, None))
    return Trainer(model=model, args=settings, train_dataset=rows)


def save(work: Work, model: nn.Module, trainer: Any, folder: Path) -> Path:
    """`Trainer.save_model`, of the Trainer that trained the model or of a new one."""
    owner = trainer if trainer is not None and trainer.model is model else bare(work, model)
    owner.save_model(str(folder))
    return folder


def batches(work: Work, trainer: Any) -> list[list[int]]:
    """First token of every row of every batch of the Trainer's own data loader."""
    work.exercised.append("Trainer.get_train_dataloader, accelerate's samplers")
    return [batch["input_ids"][:, 0].tolist() for batch in trainer.get_train_dataloader()]


def rows(samples: int, length: int = 4) -> list[dict[str, Any]]:
    """A dataset whose rows carry their index as token ids."""
    return [{"input_ids": [index] * length, "labels": [index] * length} for index in range(samples)]


def _number(norm: Any) -> float | None:
    if norm is None:
        return None
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
