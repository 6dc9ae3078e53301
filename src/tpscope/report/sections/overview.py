"""Section 1: what was asked of whom, and how each framework fares at a glance."""

from __future__ import annotations

from collections import Counter

from tpscope.frameworks.registry import families
from tpscope.language.verdict import Status
from tpscope.report.facts import HARMFUL, Study, findings, label, merged, standing
from tpscope.report.rows import RunRow
from tpscope.report.runs import ADAPTERS, MESH, PLAIN, SEQUENCE, WIDE
from tpscope.report.text import ABSENT, listed, not_yet, table

TITLE = "Overview and scope"

_TERMS = (
    ("tensor parallelism (TP)", "one layer's weight matrices are cut over the ranks of the `tp` axis; all ranks see "
                                "the same tokens"),
    ("plan", "an ordered table of rules: a pattern of module names, and the style that those modules get"),
    ("style", "what a rule does to a module: where its parameters go, and in which layout activations enter and leave"),
    ("`Shard(d)`", "every rank holds its slice along dimension `d`; of a Linear's weight `Shard(0)` cuts outputs "
                   "(column parallel), "
     "`Shard(1)` inputs (row parallel)"),
    ("`StridedShard(d, n)`", "as `Shard(d)`, of a fused tensor: each of its `n` blocks is cut by itself"),
    ("`Replicate`", "every rank holds the whole tensor"),
    ("level", "the source that gave the plan: custom (the user), optimized (the framework's own for the class), hf "
              "(Hugging Face's "
     "`_tp_plan`), base (one generic plan)"),
    ("gradient: sum, mean, none, sharded", "what happens over `tp` to a parameter's gradient before the optimizer "
                                           "step; a replicated "
     "parameter whose ranks see different parts of the data flow needs the sum"),
    ("DeviceMesh", "PyTorch's named grid of ranks; its axes here are pp, dp_replicate, dp_shard, cp and tp"),
    ("sequence parallel", "between TP regions, activations are cut along the sequence over the same `tp` ranks"),
    ("context parallel (cp)", "attention itself works on slices of the sequence, over an axis of its own"),
    ("all-reduce, all-gather, reduce-scatter", "the collectives that turn partial sums into the whole, slices into "
                                               "the whole, and partial "
     "sums into slices"),
)  # fmt: skip
_UNMEASURED = (
    ("prove", "whether the sharded model is still the same model, number by number"),
    ("price", "traffic, memory and predicted time"),
    ("bench", "time and memory on real GPUs"),
    ("migrate", "what becomes of each field when a configuration moves from one framework to the other"),
    ("recommend", "which framework to take for a model and a machine"),
)


def section(study: Study) -> list[str]:
    """Versions, models, the state of every pair, the words used."""
    titles = " and ".join(families()[name].title for name in study.families() if name in families())
    verb = "implement" if len(study.families()) > 1 else "implements"
    lines = [
        f"How {titles} {verb} tensor parallelism, found out by running their own code: {len(study.runs)} "
        f"comparisons of {len(study.frameworks)} framework versions. This text, its tables and its diagrams are "
        "made by a program from the recorded answers; no verdict, plan or figure is typed by hand. What no run has "
        "answered yet says so, with the verb that will.",
        "",
        "### In short",
        "",
        *(_short(study, key) for key in study.frameworks),
        "",
        "Findings are in section 11, worst first; what the words mean stands at the end of this section.",
        "",
        "### Versions",
        "",
    ]
    lines += table(
        "Read from what was importable in each framework's own environment while it ran; a range is given where "
        "torch ran outside it.",
        ["framework", "transformers", "accelerate", "peft", "torch", "torch it declares"],
        [_versions(study, framework) for framework in study.frameworks],
    )
    lines += ["### Models", ""]
    lines += table(
        "Published configurations from the catalog, at full size on the meta device; parameters as the first "
        "framework that ran counts them.",
        ["model", "class in its config", "parameters", "config"],
        [
            [f"`{run.question.model}`", f"`{run.question.architecture}`" if run.question.architecture else ABSENT,
             _parameters(run), run.question.status or ABSENT]
            for run in study.of(PLAIN)
        ],
    )  # fmt: skip
    for run in study.of(PLAIN):
        lines += [f"Note on `{run.question.model}`: {note}" for note in run.question.notes]
    lines += ["", "### At a glance", ""]
    lines += table(
        f"One comparison a row, TP={study.tp}: the level that gave the plan, and what its run says against it "
        "(\"wrong\" and \"stops\" are explained in section 11).",
        ["model", *study.frameworks],
        [[f"`{run.question.model}`", *(standing(run, key) for key in study.frameworks)] for run in study.of(PLAIN)],
    )  # fmt: skip
    others = [run for kind in (WIDE, SEQUENCE, ADAPTERS, MESH) for run in study.of(kind)]
    lines += table(
        "The same for other layouts and settings.",
        ["question", *study.frameworks],
        [[label(run), *(standing(run, key) for key in study.frameworks)] for run in others],
    )
    lines += ["### Not in this study yet", ""]
    there = {"prove": study.proofs.cells, "recommend": study.advice}
    missing = [(verb, what) for verb, what in _UNMEASURED if not there.get(verb)]
    lines += [f"- {what}: {not_yet(verb)}" for verb, what in missing]
    lines += ["", "### Words", ""]
    lines += table("How words are used here.", ["word", "meaning"], [list(pair) for pair in _TERMS])
    return lines


def _short(study: Study, key: str) -> str:
    """One sentence on a framework: how many models it sharded, by which plans, and how many findings are about it."""
    columns = [(run, column) for run in study.of(PLAIN) if (column := run.column(key))]
    sharded = [column for _, column in columns if column.status == Status.OK]
    levels = Counter(column.selection.level for column in sharded)
    by = listed(f"{count} by the {level} plan" for level, count in levels.most_common())
    failed: dict[str, list[str]] = {}
    for run, column in columns:
        if column.status != Status.OK:
            failed.setdefault(column.status.value, []).append(f"`{run.question.model}`")
    words = [f"- **{key}** sharded {len(sharded)} of {len(columns)} models at TP={study.tp} ({by})"]
    words += [f"{status}: {listed(models)}" for status, models in failed.items()]
    counts = Counter(item.severity for item in merged(findings(study)) if item.framework == key)
    words.append(
        "findings over all questions: " + listed(f"{counts[severity]} {severity.value}" for severity in HARMFUL)
    )
    return "; ".join(words) + "."


def _versions(study: Study, framework: str) -> list[str]:
    packages = study.packages(framework)
    cells = [packages.get(name, ABSENT) for name in ("transformers", "accelerate", "peft", "torch")]
    if not packages:
        return [framework, *cells, "not run"]
    outside = [item for column in study.columns(framework) for item in column.outside_pin if item["package"] == "torch"]
    return [framework, *cells, f"`{outside[0]['declared']}`: ran outside it" if outside else "ran inside its range"]


def _parameters(run: RunRow) -> str:
    total = next((column.total_parameters for column in run.answers if column.total_parameters), 0)
    return f"{total / 1e9:.2f} billion" if total else not_yet("compare")
