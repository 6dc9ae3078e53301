"""Check one training YAML under one framework."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tpscope.check import column as columns
from tpscope.check import known, layout, proofs, static
from tpscope.check.ask import Asked, Say, command, reading_of, target_of
from tpscope.check.implied import implied
from tpscope.check.lines import Lines, lines_of
from tpscope.check.remedy import Tries, adaptable, versions, ways_out, without
from tpscope.check.result import Check, Finding, Runs, Severity
from tpscope.check.unreadable import unreadable
from tpscope.compare.run import Pool, Question
from tpscope.errors import NoFramework, UserError
from tpscope.frameworks.registry import Target
from tpscope.frameworks.world import Worlds
from tpscope.language.answer import FrameworkAnswer
from tpscope.language.keys import KeysAnswer
from tpscope.language.layout import Layout
from tpscope.language.proof import ProofAnswer, Scenario
from tpscope.language.verdict import Status, Verdict
from tpscope.models.files import yaml_of
from tpscope.models.read import read
from tpscope.models.spec import Intent, ModelSpec
from tpscope.prove import run as prove

_ORDER = list(Severity)


def check(asked: Asked, say: Say = lambda kind, text: None) -> Check:
    """The answer for one file. Raises UserError for a file of neither framework, NoFramework if nothing could run."""
    started = time.monotonic()
    data = yaml_of(asked.path).data
    lines = lines_of(asked.path, str(asked.path))
    try:
        spec, intent = read(str(asked.path), asked.trust_remote_code)
    except UserError as error:
        return unreadable(asked, data, lines, error, say)
    if not intent.kind:
        raise UserError(f"{asked.path} is a model's config, not a training YAML; tpscope compare takes it")
    target = target_of(asked, intent.kind)
    result = _Checking(asked, target, spec, intent, lines, data, say).run()
    result.seconds = round(time.monotonic() - started, 1)
    return result


class _Checking:
    """One check on its way: what its steps share."""

    def __init__(
        self, asked: Asked, target: Target, spec: ModelSpec, intent: Intent, lines: Lines, data: Any, say: Say
    ):
        self.asked, self.target, self.spec, self.intent = asked, target, spec, intent
        self.lines, self.data, self.say = lines, data, say
        self.world = asked.world or intent.world or intent.layout.world
        self.result = Check(str(asked.path), target.id, spec.name, self.world, {}, command=command(asked, target))
        self.tries = Tries()

    def run(self) -> Check:
        """All steps; each adds to the result."""
        result = self.result
        keys = reading_of(self.asked, self.target, self.data, self.spec.config, self.world, self.say)
        result.findings += static.findings(keys, self.lines, self.data, self.target.id)
        result.shims += keys.shims
        result.notes += self.intent.notes
        if self.spec.status == "unconfirmed":
            result.notes.append(f"the configuration of {self.spec.name} is unconfirmed: {' '.join(self.spec.notes)}")
        fitted = self._layout(keys)
        result.layout = layout.shown(fitted)
        self.implied = implied(self.intent, self.spec, fitted)
        result.scenarios = list(self.implied)
        column = None
        with Pool(self.say, fresh=self.asked.fresh) as pool:
            if not any(finding.source == "layout" for finding in result.findings):
                column = self._compare(pool, fitted)
            self._nothing_ran(keys, column)
            packages = {**keys.packages, **(column.environment.get("packages", {}) if column else {})}
            outside = column.environment.get("outside_pin", []) if column else []
            result.environment = {"packages": packages, "outside_pin": outside}
            self._proofs(fitted, column)
            self._remedies(pool, fitted, column)
            self._bugs(packages, fitted)
        self._conclude(keys, column)
        named = [finding.key for finding in result.findings if finding.source == "keys"]
        result.notes = [note for note in result.notes if note.split(" ")[0] not in named]
        return result

    def _layout(self, keys: KeysAnswer) -> Layout:
        """The layout that the ranks get; a finding where they do not make one up."""
        fitted = layout.fit(self.intent, self.spec, self.world, keys.mesh)
        settings = self.intent.settings
        sharded = self.intent.kind == "nemo" or bool(settings.get("fsdp") or settings.get("fsdp_config"))
        said = [finding for finding in self.result.findings if finding.source == "layout"]
        if fitted.problem and not said:
            self.result.findings.append(
                Finding(
                    Severity.ERROR, "the ranks do not make up the layout", self.lines.where(fitted.key), fitted.problem,
                    fitted.remedy, [], fitted.key, "layout", True,
                )
            )  # fmt: skip
        for finding in said if fitted.problem else []:
            finding.why = f"{fitted.problem}. {self.target.id} says: {finding.why}"
            finding.remedy, finding.key, finding.where = fitted.remedy, fitted.key, self.lines.where(fitted.key)
        # Without FSDP, Axolotl's data-parallel ranks are copies; what happens over tp is the same in each.
        return fitted.layout if sharded else replace(fitted.layout, dp_shard=1, dp_replicate=1)

    def _question(self, fitted: Layout) -> Question:
        settings = {"kind": self.intent.kind, "settings": self.intent.settings}
        return Question(self.spec, fitted, self.intent.lora, None, settings, self.intent.notes)

    def _compare(self, pool: Pool, fitted: Layout) -> FrameworkAnswer:
        pool.prepare([self.target])
        column = pool.answers(self._question(fitted), [self.target])[0]
        self.result.findings += columns.findings(column, self.intent, self.spec, fitted, self.lines)
        self.result.shims += [shim for shim in column.shims if shim not in self.result.shims]
        return column

    def _nothing_ran(self, keys: KeysAnswer, column: FrameworkAnswer | None) -> None:
        dead = [item for item in (keys.error, column.error if column else None) if item is not None]
        if keys.error is not None and all(item.kind in ("ImportError", "ProcessDied") for item in dead):
            raise NoFramework(f"{self.target.id} could not be run: {keys.error.message}")

    def _proofs(self, fitted: Layout, column: FrameworkAnswer | None) -> None:
        result = self.result
        if not self.asked.prove or fitted.tp < 2:
            return
        blocking = [finding for finding in result.findings if finding.stops and finding.source != "loop"]
        if blocking or column is None or column.status is not Status.OK:
            result.notes.append("no proofs were run: what stands above comes first")
            return
        wanted, notes = proofs.cases(list(self.implied), fitted, self.intent)
        result.notes += notes
        with Worlds() as worlds:
            result.cases = self._prove(self.target, wanted, worlds)
            found = proofs.findings(result.cases, self.implied, self.intent, self.lines)
            self._settle(found)
            without(found, result.cases)
            self._other_versions(found, wanted, worlds)
        result.findings += found

    def _prove(self, target: Target, wanted: list[tuple[Scenario, int]], worlds: Worlds) -> list[ProofAnswer]:
        cases = [
            prove.Case(self.spec, prove.small(self.spec, scenario), target, scenario, tp) for scenario, tp in wanted
        ]

        def watch(case: prove.Case, answer: ProofAnswer | None) -> None:
            self.say("run" if answer is None else "done", f"{case.target.id} {case.scenario.name}")

        return prove.run(cases, prove.Options(fresh=self.asked.fresh), self.say, watch, worlds).cases

    def _settle(self, found: list[Finding]) -> None:
        """A proof knows better than compare's suspicions, and than compare's small loop at default settings."""
        verdicts = {case.verdict for case in self.result.cases}
        if not verdicts & {Verdict.EQUAL, Verdict.DIFFERENT, Verdict.CRASHED}:
            return
        crashed = any(finding.stops for finding in found)
        kept = []
        for finding in self.result.findings:
            suspicion = (
                finding.source == "compare" and finding.severity is Severity.WARNING and "ignores" not in finding.what
            )
            if suspicion or (finding.source == "loop" and (crashed or Verdict.CRASHED not in verdicts)):
                continue
            kept.append(finding)
        self.result.findings = kept

    def _other_versions(self, found: list[Finding], wanted: list[tuple[Scenario, int]], worlds: Worlds) -> None:
        """Run what was not equal on other installed versions: the first where all of it is equal is a remedy."""
        bad = [case.scenario for case in self.result.cases
               if case.verdict in (Verdict.DIFFERENT, Verdict.CRASHED, Verdict.REFUSED)]  # fmt: skip
        if not bad:
            return
        again = [item for item in wanted if item[0].name == bad[-1]] or wanted[-1:]
        for other in versions(self.target):
            if self.tries.over:
                break
            answers = self._prove(other, again, worlds)
            said = ", ".join(f"{answer.scenario} {answer.verdict.value}" for answer in answers)
            self.tries.note(other.id, said)
            if all(answer.verdict is Verdict.EQUAL for answer in answers):
                for finding in found:
                    if finding.severity is Severity.ERROR:
                        more = f"take {other.id}: {said}"
                        finding.remedy = f"{more}; or {finding.remedy}" if finding.remedy else more
                return
        key = layout.tp_key(self.intent.kind).rpartition(".")[2]
        for finding in found:
            if finding.severity is Severity.ERROR:
                more = f"write {key}: 1 (share the weights by FSDP instead)"
                finding.remedy = f"{finding.remedy}; or {more}" if finding.remedy else more

    def _bugs(self, packages: dict[str, str], fitted: Layout) -> None:
        bugs = known.matching(
            packages, self.target.family.name, self.target.version, self.spec, fitted, self.implied, self.data
        )
        result = self.result
        result.findings += known.apply(bugs, result.findings, result.cases, self.implied, self.intent, self.lines)

    def _remedies(self, pool: Pool, fitted: Layout, column: FrameworkAnswer | None) -> None:
        """Try what would make a refused file run, where nothing says so yet."""
        for finding in self.result.findings:
            if finding.source in ("compare", "loop") and finding.stops and not finding.remedy and column is not None:
                question = self._question(fitted)
                if names := adaptable(question, self.target, finding, pool, self.tries):
                    finding.remedy = f"name modules that are there: {', '.join(names)}"
                    continue
                found = ways_out(question, self.target, self.intent, pool, self.tries, self._plain(fitted))
                finding.remedy = "; or ".join(found) or "nothing that was tried makes it run (see tried)"
        self.result.tried = self.tries.said

    def _plain(self, fitted: Layout) -> Callable[[Target], Verdict | None]:
        """The verdict of the plain case under another version."""

        def verdict(other: Target) -> Verdict | None:
            wanted, _ = proofs.cases([], fitted, self.intent)
            if not self.asked.prove or not wanted:
                return None
            with Worlds() as worlds:
                return self._prove(other, wanted, worlds)[-1].verdict

        return verdict

    def _conclude(self, keys: KeysAnswer, column: FrameworkAnswer | None) -> None:
        result = self.result
        result.findings.sort(key=lambda finding: (_ORDER.index(finding.severity), not finding.stops))
        stops = any(finding.stops and finding.severity is Severity.ERROR for finding in result.findings)
        unknown = keys.error is not None or (column is not None and column.status is Status.UNSUPPORTED)
        result.runs = Runs.NO if stops else Runs.UNKNOWN if unknown else Runs.YES
        result.verdict = proofs.verdict(result.cases)
