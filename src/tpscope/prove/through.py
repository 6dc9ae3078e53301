"""A written plan proven through the framework that it is for: `tpscope prove` with the plan as the user's own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tpscope.frameworks.targets import resolve
from tpscope.models.read import read
from tpscope.plan.formats import NAMES
from tpscope.plan.result import Through
from tpscope.prove.run import Options, matrix, run
from tpscope.prove.scenarios import parse

# Where a format's plan is proven: transformers' own classes, which the plan's names are of.
FRAMEWORKS = {"transformers": "transformers@5.23.0", "nemo": "nemo@0.7.0+hf"}


def through(
    text: str, form: str, model: str, tp: int, framework: str, say: Callable[[str, str], None], fresh: bool = False
) -> Through:
    """A framework's verdict on a plan's text, for INPUT at so many ranks. Raises NoFramework if it cannot run."""
    spec, _ = read(model)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "written_plan.py"
        file.write_text(text, encoding="utf-8")
        options = Options(f"{file}:{NAMES[form]}", fresh)
        say("run", f"prove through {framework}")
        proofs = run(matrix([spec], resolve([framework], None), [parse("plain")], [tp]), options)
        say("done", f"prove through {framework}")
    (case,) = proofs.cases
    why = case.sentence or (case.error.message if case.error else "")
    command = f"tpscope prove {model} --with {framework} --tp {tp} --custom-plan FILE.py:{NAMES[form]}"
    return Through(framework, case.verdict, " ".join(why.split()), command)
