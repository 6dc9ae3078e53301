"""One candidate tried: its config written and read back, compared, and proved way by way until one is not equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tpscope import bugs
from tpscope.check import known, layout, proofs
from tpscope.check.implied import implied
from tpscope.compare.differences import find
from tpscope.compare.run import Pool, Question
from tpscope.errors import UserError
from tpscope.frameworks.registry import Target
from tpscope.frameworks.runner import Environment
from tpscope.frameworks.targets import environment
from tpscope.frameworks.world import Worlds
from tpscope.language.answer import FrameworkAnswer
from tpscope.language.layout import Layout
from tpscope.language.proof import ProofAnswer, Scenario
from tpscope.language.verdict import Severity, Status, Verdict
from tpscope.models.files import yaml_of
from tpscope.models.read import read
from tpscope.models.spec import Intent, ModelSpec
from tpscope.prove import run as prove
from tpscope.recommend.ask import Wanted
from tpscope.recommend.config import Settings, clips, optional, written
from tpscope.recommend.result import Candidate, KnownBug

Say = Callable[[str, str], None]
# Settings that a config has without anybody's asking: the scenario that proves one, and how the config does without.
_OWN: dict[str, Callable[[Settings], Settings]] = {
    "accumulate": lambda settings: replace(settings, accumulation=1),
    "clip": lambda settings: replace(settings, clip=None),
}


@dataclass
class Trials:
    """What all trials share: the wish, warm workers, and a folder for the configs that are written."""

    want: Wanted
    own_plan: bool
    pool: Pool
    folder: Path
    say: Say
    fresh: bool = False
    trusted: bool = False

    def of(self, target: Target, layouts: list[Layout]) -> Iterator[Candidate]:
        """The candidates of one framework version, until one is equal or no other layout could be."""
        # Its ranks end with it: those of several frameworks side by side would take gigabytes.
        with Worlds() as worlds:
            yield from self._of(target, layouts, worlds)

    def _of(self, target: Target, layouts: list[Layout], worlds: Worlds) -> Iterator[Candidate]:
        for wanted in layouts:
            settings, left_out = first(target, self.place(target), self.want)
            while True:
                candidate = self._one(target, wanted, settings, left_out, worlds)
                yield candidate
                failed = candidate.failed.scenario if candidate.failed else ""
                if candidate.failed is None or failed not in optional(target):
                    break
                settings, left_out = _OWN[failed](settings), {**left_out, failed: candidate.reason}
            if candidate.equal or failed in ("plain", "lora", "sequence-parallel"):
                # The other layout differs in FSDP and in the size of tp, and what failed needs neither.
                return

    def place(self, target: Target) -> Environment:
        """What a target runs in; installed if it is not there yet."""
        return environment(target, lambda text: self.say("install", text))

    def _one(
        self, target: Target, wanted: Layout, settings: Settings, left_out: dict[str, str], worlds: Worlds
    ) -> Candidate:
        where = self.place(target)
        text = written(target, where, self.want.spec, self.want.reference, wanted, settings)
        candidate = Candidate(
            target.id, layout.shown(wanted), asdict(settings), left_out=dict(left_out), config=text
        )  # fmt: skip
        path = write(self.folder, target, text)
        spec, intent = read(str(path), self.trusted)
        found = implied(intent, spec, wanted)
        column = self._compare(target, spec, intent, wanted, candidate)
        if not candidate.reason:
            self._prove(target, spec, intent, wanted, list(found), candidate, worlds)
        packages = column.environment.get("packages", {})
        entries = known.matching(
            packages, target.family.name, target.version, spec, wanted, found, yaml_of(path).data
        )  # fmt: skip
        candidate.bugs = _bugs(entries, candidate, column, spec)
        candidate.mends = _mends(candidate, self.want)
        return candidate

    def _compare(
        self, target: Target, spec: ModelSpec, intent: Intent, wanted: Layout, candidate: Candidate
    ) -> FrameworkAnswer:
        self.pool.prepare([target])
        settings = {"kind": intent.kind, "settings": intent.settings}
        column = self.pool.answers(Question(spec, wanted, intent.lora, None, settings, intent.notes), [target])[0]
        candidate.status, candidate.level = column.status.value, column.selection.level
        candidate.ignored = column.ignored
        if column.status is Status.OK:
            candidate.sharded_fraction = column.sharded_fraction
            costs = [item for item in find([column]) if item.severity is Severity.COST]
            candidate.costs = [_without(item.meaning, column.id) for item in costs]
        candidate.reason = _reason(column, self.own_plan)
        return column

    def _prove(
        self, target: Target, spec: ModelSpec, intent: Intent, wanted: Layout, names: list[str], candidate: Candidate,
        worlds: Worlds,
    ) -> None:  # fmt: skip
        ways, candidate.notes = proofs.cases(names, wanted, intent)
        candidate.ways = [scenario.name for scenario, _ in ways]
        for scenario, tp in ways:
            answer = self.proof(target, spec, scenario, tp, worlds)
            candidate.cases.append(answer)
            if answer.verdict is not Verdict.EQUAL:
                candidate.reason = f"{scenario.name} at tp={tp} is {answer.verdict.value}: {answer.sentence}"
                return

    def proof(self, target: Target, spec: ModelSpec, scenario: Scenario, tp: int, worlds: Worlds) -> ProofAnswer:
        """One proof, from the cache where the same was asked before. Ctrl-C ends the whole recommendation."""
        case = prove.Case(spec, prove.small(spec, scenario), target, scenario, tp)

        def watch(asked: prove.Case, answer: ProofAnswer | None) -> None:
            self.say("run" if answer is None else "done", f"{asked.target.id} {asked.scenario.name} tp={asked.tp}")

        found = prove.run([case], prove.Options(fresh=self.fresh), self.say, watch, worlds)
        if found.interrupted:
            raise KeyboardInterrupt
        return found.cases[0]


def first(target: Target, place: Environment, want: Wanted) -> tuple[Settings, dict[str, str]]:
    """The settings to begin with: all, but for those that this version takes no key for."""
    settings = Settings(lora=want.lora)
    if clips(target, place):
        return settings, {}
    return replace(settings, clip=None), {"clip": f"{target.id} reads no clip_grad_norm and does not clip"}


def write(folder: Path, target: Target, text: str) -> Path:
    """A config in a file that `read` and `check` take."""
    path = folder / f"{target.family.name}.{'yml' if target.family.name == 'axolotl' else 'yaml'}"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space in the temporary folder"
        ) from error
    return path


def _reason(column: FrameworkAnswer, own_plan: bool) -> str:
    """Why compare's column alone puts a candidate out, "" if it does not."""
    if column.status is not Status.OK and column.error is not None:
        place = f" ({column.error.where.path}:{column.error.where.line})" if column.error.where else ""
        return f"{column.status.value} in {column.error.phase}: {column.error.message}{place}"
    if column.lora.requested and not column.lora.modules and column.lora.applied_by:
        return f"{column.lora.applied_by} adapted 0 modules, so the run would train nothing"
    for item in column.ignored:
        return f"it ignores {item['setting']}: {item['what']}"
    asked = [step.level for step in column.selection.order]
    if own_plan and "custom" not in asked:
        return f"its selection takes no plan of your own: it asks {', '.join(asked) or 'no source'}"
    return ""


def _without(meaning: str, name: str) -> str:
    return meaning.removeprefix(f"{name}: ").removeprefix(f"{name} ")


def _bugs(
    entries: list[bugs.Bug], candidate: Candidate, column: FrameworkAnswer, spec: ModelSpec
) -> list[KnownBug]:  # fmt: skip
    """Entries whose conditions are met, but for those whose own scenario was proved equal."""
    equal = {case.scenario for case in candidate.cases if case.verdict is Verdict.EQUAL}
    found = [
        KnownBug(
            bug.id,
            bug.framework,
            bug.title,
            bug.link or "not reported",
            bug.fixed,
            _shows(bug, candidate, column, spec),
        )
        for bug in entries
        if (bug.scenario or "plain") not in equal
    ]
    return sorted(found, key=lambda item: not item.shown)


def _shows(bug: bugs.Bug, candidate: Candidate, column: FrameworkAnswer, spec: ModelSpec) -> bool:
    """True if what put a candidate out is of the kind that an entry expects."""
    failed = candidate.failed
    if failed is None:
        expected = [item.verdict for item in bug.own if item.framework == candidate.framework]
        return column.status is not Status.OK and column.status.value in expected
    sizes = {key: value for key, value in spec.config.items() if isinstance(value, int)}
    seen = bugs.Seen(
        candidate.framework, column.environment.get("packages", {}), spec.model_type, failed.scenario, failed.tp,
        failed.verdict.value, tuple(item.cause.value for item in failed.diagnosis), sizes, failed.sentence,
    )  # fmt: skip
    if bugs.explains(bug, seen):
        return True
    # A default of the framework may bring an entry's scenario into the plain case: then its package raises.
    where = failed.error.where if failed.error else None
    raised = where is not None and where.path.split("/")[0] == bug.framework
    return raised and any(item.verdict == failed.verdict.value for item in bug.own)


def _mends(candidate: Candidate, want: Wanted) -> list[str]:
    """What would let a candidate in: a mend that a proof confirmed, a version that has it mended, a wish less."""
    failed = candidate.failed
    found = [
        f"take {bug.package} {bug.fixed}, which has it mended (bugs/{bug.id})"
        for bug in candidate.bugs
        if bug.shown and bug.fixed
    ]
    for item in failed.diagnosis if failed else []:
        if item.repaired and item.mend:
            found.append(f"{item.mend} ({item.where})" if item.where else item.mend)
    equal = {case.scenario for case in candidate.cases if case.verdict is Verdict.EQUAL}
    wishes = {"lora": want.lora is not None, "sequence-parallel": want.sequence_parallel}
    for name, wished in wishes.items():
        if wished and failed is not None and name in failed.scenario.split("+") and "plain" in equal:
            found.append(f"without {name}: plain is equal")
    return list(dict.fromkeys(found))
