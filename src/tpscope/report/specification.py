"""The specification of the study: objectives, scope, methodology, plan, verification criteria."""

from __future__ import annotations

from tpscope.report.experiments.bench_rows import Benched
from tpscope.report.experiments.price_rows import Price
from tpscope.report.facts import Study
from tpscope.report.runs import FRAMEWORKS, RUNS, Run
from tpscope.report.text import listed, not_yet, table, together

_OBJECTIVES = (
    "Say, for a model and a layout, what each framework does with it under tensor parallelism: which plan, from "
    "which source, by which lines of its code, with which placements, on which mesh.",
    "Say what that means for the one who trains: wrong, blocked, ignored, costly, or merely different.",
    "Keep every sentence repeatable: by a command, or by a path, a line and the sha256 of the file.",
    "Show what has changed between the versions of the study's time and the newest ones.",
)
_DIMENSIONS = (
    "architecture and who does what", "hierarchy of plans and how to put in one's own", "DeviceMesh", "style classes",
    "model-specific plans, heads and tied weights", "sequence parallelism", "LoRA", "what comes from Hugging Face",
    "configuration, refusals and settings without effect", "size and visibility of the code that decides",
    "composition of TP with FSDP2, sequence, context and pipeline parallelism",
)  # fmt: skip
_METHOD = (
    ("Closed environments", "each framework version is installed in an overlay of its own, with the transformers, "
                            "accelerate and PEFT that its own metadata asks "
     "for; only torch and torch's dependencies are shared. Packages outside a declared range are listed with "
     "every answer."),
    ("The frameworks' own code", "mesh, model resolver, validation, plan selection, application, LoRA and training "
                                 "loop are called, not imitated. Models are built "
     "at full size on the meta device under a fake process group of the layout's size. Every stand-in for a "
     "launcher or for hardware is listed."),
    ("Selection traced", "the source lines that run while a plan is chosen and applied are recorded, once each, in "
                         "the order in which they first run."),
    ("Precedence by experiment", "every input of the selection (arguments, flags, the registry, the Hugging Face "
                                 "attribute, a plan function that raises) is switched "
     "through its states in all combinations; the order in which sources are asked is read off the outcomes."),
    ("Gradients observed", "a two-layer model with the real head counts goes through forward, loss, backward and the "
                           "training loop's own statements up to the "
     "optimizer step; collectives are recorded, and what was reduced over tp is told by a mark on the values."),
    ("Equality proved", "the framework's own loader, plan and training loop run on real ranks over gloo, on a small "
                        "model of the same structure with random weights in float64; loss, logits, gradients, stepped "
     "and saved values are laid beside the unsharded model's, within a tolerance measured on it. A cause is named "
     "where its mend makes the case equal. `python -m tpscope.report.prove_sweep` records the rows."),
    ("Differences by rule", "answers are joined by canonical parameter names and compared by functions that give "
                            "each difference a severity and one sentence."),
    ("Source read where nothing runs", "style classes, registries, configuration fields and the length of files are "
                                       "read with `ast` in the installed source; each has "
     "its path and line."),
    ("Text by program", "the study is a pure function of the recorded rows. What no run has answered says \"not "
                        "measured yet\" and names the verb that will."),
)  # fmt: skip
_CRITERIA = (
    "`make check` regenerates both files from `results/study.jsonl` and `results/prove.jsonl` and fails, naming the "
    "file and the first differing line, if they differ or if a run of the plan below has no row.",
    "Every row of `results/study.jsonl` holds the command that repeats it, commit, date and machine.",
    "Every quoted line has a path and a line number, and the file's sha256 is in appendix D of the study.",
    "Every table is preceded by one sentence on how it was obtained, and no cell is empty.",
    "Crashes and stopped training loops seen with a package outside its declared range carry that caveat.",
    "No verdict, plan or figure is typed by hand; tests generate the study from rows made for the test and look "
    "for what they put in.",
)


def lines(study: Study) -> list[str]:
    """The specification, with versions and models from the set of runs, and how far they are recorded."""
    have = {run.command for run in study.runs}
    text = [
        "# 012: NeMo AutoModel and Axolotl, tensor parallelism compared",
        "",
        "<!-- Made by `python -m tpscope.report.study --generate`; versions and models come from "
        "src/tpscope/report/runs.py. -->",
        "",
        "## Objectives",
        "",
        *(f"{number}. {objective}" for number, objective in enumerate(_OBJECTIVES, 1)),
        "",
        "## Scope",
        "",
        f"Framework versions: {listed(f'`{name}`' for name in FRAMEWORKS)}.",
        "",
        f"Models: {listed(f'`{run.model}`' for run in RUNS)}.",
        "",
        f"Layouts and settings: {together(_setting(run) for run in RUNS)}.",
        "",
        "Dimensions:",
        "",
        *(f"- {dimension}" for dimension in _DIMENSIONS),
        "",
        "Outside this study until the verbs are there:",
        "",
        *([] if study.proofs.cells else [f"- equality of the sharded and the unsharded model: {not_yet('prove')}"]),
        *([] if study.measured(Price) else [f"- memory, traffic and time, predicted: {not_yet('price')}"]),
        *([] if study.measured(Benched) else [f"- time and memory, measured on GPUs: {not_yet('bench')}"]),
        f"- moving configurations between the frameworks: {not_yet('migrate')}",
        *([] if study.advice else [f"- which framework to take: {not_yet('recommend')}"]),
        "",
        "## Methodology",
        "",
        *(f"- **{name}**: {words}" for name, words in _METHOD),
        "",
        "## Plan",
        "",
    ]  # fmt: skip
    text += table(
        "The comparisons of the study, from src/tpscope/report/runs.py, and whether results/study.jsonl has their "
        "rows.",
        ["for", "model", "layout", "LoRA", "recorded"],
        [[run.kind, f"`{run.model}`", str(run.layout), run.lora or "-", _recorded(run, have)] for run in RUNS],
    )
    text += [
        "Steps: ask the typical questions of section 11 (`python -m tpscope.report.guidance`); run the comparisons "
        "(`python -m tpscope.report.study`), which records the rows and writes the study; read it as a "
        "critic; where an answer is implausible, mend the code that gave it and run again; commit rows and "
        "text together.",
        "",
        "## Verification criteria",
        "",
        *(f"- {criterion}" for criterion in _CRITERIA),
        "",
    ]
    return text


def _setting(run: Run) -> str:
    return str(run.layout) + (f", LoRA {run.lora}" if run.lora else "")


def _recorded(run: Run, have: set[str]) -> str:
    return "yes" if run.command() in have else not_yet("compare")
