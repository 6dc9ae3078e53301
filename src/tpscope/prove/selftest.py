"""The self-test: plans that are proven right are broken on purpose; every fault must be found and named."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tpscope.frameworks.registry import parse as target
from tpscope.language.answer import to_json
from tpscope.language.plan import wildcard
from tpscope.language.proof import Cause, ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.models.read import read
from tpscope.prove import scenarios
from tpscope.prove.faults import CARRIER, FAULTS, FULL, HARMLESS, MENDED, SMALL, WRONG_ITSELF, Fault
from tpscope.prove.run import Case, Options, run
from tpscope.prove.small import small

SCHEMA = "tpscope.selftest/1"
TP = 2


@dataclass
class MutationRow:
    """One fault in one model. `found`: the case is different. `named`: the diagnosis gives the expected cause, at the
    place that was broken, and no other; and its mend made the case equal, where a mend can."""

    model: str
    kind: str
    does: str
    found: bool
    named: bool
    framework: str
    scenario: str
    expected: Cause
    causes: list[Cause]
    places: list[str]
    where: list[str]
    sentence: str
    seconds: float


@dataclass
class Control:
    """One model that was not broken. `mended`: what was set right first, where the framework itself is wrong."""

    model: str
    verdict: Verdict
    framework: str
    scenario: str
    sentence: str
    seconds: float
    mended: str = ""


@dataclass
class NotApplicable:
    """A fault for which a model has no place."""

    model: str
    kind: str
    reason: str


@dataclass
class SelfTest:
    """The answer of `tpscope prove --self-test`. `interrupted`: cases not reached."""

    mutations: list[MutationRow] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    not_applicable: list[NotApplicable] = field(default_factory=list)
    full: bool = False
    packages: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: int = 0
    schema: str = SCHEMA

    @property
    def alarms(self) -> list[Control]:
        """Controls that are not equal."""
        return [control for control in self.controls if control.verdict != Verdict.EQUAL]

    @property
    def missed(self) -> list[MutationRow]:
        """Faults that were not found, or not named."""
        return [row for row in self.mutations if not (row.found and row.named)]

    @property
    def bad(self) -> bool:
        """True for a fault that was missed, for a false alarm, and where nothing was tested."""
        return bool(self.missed or self.alarms) or not self.mutations

    def to_json(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        return to_json(self)


Watch = Callable[[Case, ProofAnswer | None], None]


def cases(full: bool, models: Sequence[str] = ()) -> list[tuple[Case, Fault | None]]:
    """Every control, followed by the faults that need it, model by model. `models`: instead of the default ones."""
    faults = [fault for fault in FAULTS if full or fault.small]
    found: list[tuple[Case, Fault | None]] = []
    for model in models or (FULL if full else SMALL):
        spec = read(model)[0]
        done: set[str] = set()
        for fault in faults:
            if reason_against(model, fault):
                continue
            scenario = scenarios.parse(fault.scenario)
            mended = MENDED.get(fault.scenario, "")
            control = Case(spec, small(spec, scenario), target(CARRIER), scenario, TP, mended)
            if fault.scenario not in done:
                done.add(fault.scenario)
                found.append((control, None))
            found.append((replace(control, mutation=fault.kind), fault))
    return found


def reason_against(model: str, fault: Fault) -> str:
    """Why a fault is not put into a model, "" where it is."""
    return WRONG_ITSELF.get((model, fault.scenario)) or HARMLESS.get((model, fault.kind), "")


def selftest(
    full: bool = False,
    models: Sequence[str] = (),
    options: Options | None = None,
    say: Callable[[str, str], None] = lambda kind, text: None,
    watch: Watch = lambda case, answer: None,
) -> SelfTest:
    """Run the self-test: the small form, or every kind on every architecture. Ctrl-C keeps what is finished."""
    started = time.monotonic()
    planned = cases(full, models)
    answers: dict[str, ProofAnswer] = {}

    def told(case: Case, answer: ProofAnswer | None) -> None:
        if answer is not None:
            answers[case.name] = answer
        watch(case, answer)

    run([case for case, _ in planned], options, say, told)
    result = SelfTest(full=full)
    for case, fault in planned:
        if (answer := answers.get(case.name)) is not None:
            result.packages |= answer.environment.get("packages", {})
            _take(result, case, fault, answer)
    result.not_applicable += [
        NotApplicable(model, fault.kind, reason)
        for model in models or (FULL if full else SMALL)
        for fault in FAULTS
        if (full or fault.small) and (reason := reason_against(model, fault))
    ]
    result.interrupted = len(planned) - len(answers)
    result.seconds = round(time.monotonic() - started, 1)
    return result


def _take(result: SelfTest, case: Case, fault: Fault | None, answer: ProofAnswer) -> None:
    model, framework, scenario = case.model.name, case.target.id, case.scenario.name
    if fault is None:
        result.controls.append(
            Control(model, answer.verdict, framework, scenario, answer.sentence, answer.seconds, case.mutation)
        )
    elif answer.error is not None and answer.error.kind == "NoSuchPlace":
        result.not_applicable.append(NotApplicable(model, fault.kind, answer.error.message))
    else:
        causes = list(dict.fromkeys(diagnosis.cause for diagnosis in answer.diagnosis))
        places: list[str] = answer.measured.get("fault", {}).get("places", [])
        result.mutations.append(
            MutationRow(
                model, fault.kind, fault.does, answer.verdict == Verdict.DIFFERENT, named(fault, answer, places),
                framework, scenario, fault.cause, causes, places,
                [diagnosis.where for diagnosis in answer.diagnosis], answer.sentence, answer.seconds,
            )
        )  # fmt: skip


def named(fault: Fault, answer: ProofAnswer, places: Sequence[str]) -> bool:
    """True if every diagnosis gives the expected cause, its mend confirms it where that can be, and one says a
    place that was broken, where there is one."""
    if not answer.diagnosis or any(diagnosis.cause != fault.cause for diagnosis in answer.diagnosis):
        return False
    if fault.repairable and not all(diagnosis.repaired for diagnosis in answer.diagnosis):
        return False
    said = ", ".join(diagnosis.where for diagnosis in answer.diagnosis)
    return not places or any(place in said or wildcard(place) in said for place in places)
