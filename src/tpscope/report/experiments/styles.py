"""Question Q3, can NeMo's ParallelStyle classes go upstream: each is run beside counterparts in plain PyTorch.

python -m tpscope.report.experiments.styles                        NeMo, both versions of the study
python -m tpscope.report.experiments.styles --with nemo@0.7.0      one of them
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from pydantic import TypeAdapter

from tpscope.frameworks import overlay
from tpscope.frameworks.registry import Target
from tpscope.language.measured.port import Trial
from tpscope.report.experiments import asking
from tpscope.report.experiments.asking import Asker
from tpscope.report.experiments.style_rows import Style
from tpscope.report.rows import Cited
from tpscope.report.runs import FRAMEWORKS
from tpscope.report.sources import own_styles

NAME = "styles"
PURPOSE = "Style classes of a framework, each beside its counterparts in plain PyTorch."
ASKED = tuple(name for name in FRAMEWORKS if name.startswith("nemo@"))
# The classes are tried on modules of their own; a model is only what an order to a framework must name.
_MODEL = "llama-3.2-1b"
_TRIALS = TypeAdapter(list[Trial])


def measure(asker: Asker, target: Target) -> Iterator[Style]:
    """Every style class that the framework's own package defines."""
    asker.pool.prepare([target])
    for cited in defined(target):
        print(f"  {cited.name}", flush=True)
        answer = asker.ask(NAME, target, _MODEL, {"styles": [{"name": cited.name, "path": cited.where.path}]})
        trial = _TRIALS.validate_python(answer.value)[0] if answer.value else Trial(cited.name)
        head = {**asker.head(target, answer), "shims": [*answer.shims, *trial.shims]}
        yield Style(
            **head, style=cited.name, extends=cited.value, where=cited.where, trial=trial
        )  # fmt: skip


def defined(target: Target) -> list[Cited]:
    """The classes, as the study's sources list them."""
    found = overlay.installed(target)
    assert found is not None, f"{target.id} was prepared, so it is installed"
    return own_styles(found.path, target.family.module)


def main(arguments: Iterable[str] | None = None) -> int:
    """Try every class and record the rows. Returns the exit code."""
    asked = list(arguments) if arguments is not None else None
    return asking.main(NAME, PURPOSE, measure, asked, frameworks=ASKED)


if __name__ == "__main__":
    sys.exit(main())
