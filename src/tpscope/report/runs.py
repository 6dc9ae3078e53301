"""What the study rests on: which framework versions were asked about which models, and how. Change the set here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tpscope.language.layout import Layout

# The versions of the study's time, and the newest of each.
FRAMEWORKS = ("nemo@0.2.0", "nemo@0.7.0", "axolotl@0.13.2", "axolotl@0.19.0")

MODELS = (
    "llama-3.1-8b", "qwen3-8b", "gemma-3-27b", "phi-3-mini", "mistral-7b", "llama-3.2-1b", "qwen2.5-7b", "mixtral-8x7b",
    "olmo-2-7b", "command-r",
)  # fmt: skip
# Shown in full where one model stands for all: the plan, the selection, the mesh.
EXAMPLE = "llama-3.1-8b"
WITH_SEQUENCE_PARALLEL = ("llama-3.1-8b", "qwen3-8b", "gemma-3-27b", "mistral-7b")
WITH_LORA = ("llama-3.1-8b", "qwen3-8b")
LORA = "r=16,targets=all-linear"
LAYOUTS = (
    Layout(pp=2, dp_replicate=2, dp_shard=2, cp=2, tp=2),
    Layout(dp_replicate=2, dp_shard=2, cp=2, tp=2),
    Layout(dp_shard=2, tp=2),
    Layout(cp=2, tp=2),
)

PLAIN, WIDE, SEQUENCE, ADAPTERS, MESH = "plain", "wide", "sequence-parallel", "lora", "mesh"


@dataclass(frozen=True)
class Run:
    """One comparison of the study: `kind` says which part of the study it is for."""

    kind: str
    model: str
    layout: Layout
    lora: str | None = None

    def command(self, frameworks: tuple[str, ...] = FRAMEWORKS) -> str:
        """The tpscope command line that repeats it."""
        words = ["tpscope", "compare", self.model]
        for axis, size in self.layout.sizes.items():
            if size > 1:
                words += [f"--{axis.replace('_', '-')}", str(size)]
        if self.layout.sequence_parallel:
            words.append("--sequence-parallel")
        if self.lora:
            words += ["--lora", self.lora]
        for name in frameworks:
            words += ["--with", name]
        return " ".join(words)


@dataclass(frozen=True)
class Set:
    """What a study or a report asks: every model at the first tp size, and a choice of models and layouts beyond it.

    `wide` are the models that are asked at the other tp sizes too; None stands for all of them.
    """

    frameworks: tuple[str, ...] = FRAMEWORKS
    models: tuple[str, ...] = MODELS
    tps: tuple[int, ...] = (2, 8)
    wide: tuple[str, ...] | None = None

    def runs(self) -> tuple[Run, ...]:
        """Its comparisons, in the order in which they are recorded."""
        first, *others = self.tps
        wide = self.models if self.wide is None else self.wide
        (example, *_) = self._chosen((EXAMPLE,))
        return (
            *(Run(PLAIN, model, Layout(tp=first)) for model in self.models),
            *(Run(WIDE, model, Layout(tp=tp)) for tp in others for model in wide),
            *(
                Run(SEQUENCE, model, Layout(tp=first, sequence_parallel=True))
                for model in self._chosen(WITH_SEQUENCE_PARALLEL)
            ),
            *(Run(ADAPTERS, model, Layout(tp=first), LORA) for model in self._chosen(WITH_LORA)),
            *(Run(MESH, example, replace(layout, tp=first)) for layout in LAYOUTS),
        )

    def _chosen(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `wanted` that are among the models; the first model if none is."""
        return tuple(model for model in wanted if model in self.models) or self.models[:1]


STUDY, REPORT = Set(wide=(EXAMPLE,)), Set()
RUNS = STUDY.runs()
