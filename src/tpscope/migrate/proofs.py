"""Both files' training, proved on this machine by `tpscope check`: equal to the whole model, so equal to each other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tpscope.check import ask
from tpscope.check.result import Check as Checked
from tpscope.check.result import Severity
from tpscope.check.run import check
from tpscope.errors import NoFramework, UserError
from tpscope.language.verdict import Verdict
from tpscope.migrate.checks import Side
from tpscope.migrate.result import Check, Migration, Standing

Say = Callable[[str, str], None]


def proven(source: Side, target: Side, result: Migration, say: Say, fresh: bool) -> list[Check]:
    """The verdict of each side, what it rests on, and what is wrong where a side is not equal."""
    found: list[Check] = []
    verdicts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tpscope-migrate-") as folder:
        for side in (source, target):
            path = Path(result.config)
            if side is target:
                # Beside the input's own name, so that findings can be read.
                path = Path(folder) / f"{path.stem}.{side.kind}.yml"
                path.write_text(result.output, encoding="utf-8")
            asked = ask.Asked(path, result.world or None, side.target.id, None, True, fresh)
            try:
                answer = check(asked, say)
            except (UserError, NoFramework) as error:
                verdicts.append("not proven")
                found.append(Check(f"proof of {side.target.id}", Standing.UNCHECKED, str(error)))
                continue
            verdicts.append(answer.verdict.value if answer.verdict else "nothing to prove")
            found += _told(answer, side)
    same = set(verdicts) <= {Verdict.EQUAL.value}
    open_ = any(said in ("not proven", "nothing to prove") for said in verdicts)
    why = "each is equal to the whole model on the same weights and batch" if same else "what is wrong stands beside it"
    standing = Standing.OK if same else Standing.UNCHECKED if open_ else Standing.TOLD
    first, second = verdicts
    return [Check("both train the same model", standing, why, first, second), *found]


def _told(answer: Checked, side: Side) -> list[Check]:
    name = f"proof of {side.target.id}"
    cases = ", ".join(f"{case.scenario} {case.verdict.value}" for case in answer.cases)
    found = [Check(name, Standing.OK if answer.verdict is Verdict.EQUAL else Standing.TOLD, cases)] if cases else []
    for item in answer.findings:
        if item.severity is Severity.ERROR:
            found.append(Check(name, Standing.TOLD, f"{item.what}: {item.why}", evidence=item.evidence[:1]))
    return found
