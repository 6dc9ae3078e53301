"""What is said of two sides' proofs: both right, one wrong with its bug, nothing to prove."""

import pytest

from tpscope.frameworks import registry
from tpscope.language.proof import Cause, Diagnosis, ParameterProof, ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.migrate import proofs
from tpscope.migrate.checks import Side
from tpscope.migrate.result import Standing
from tpscope.models.catalog import by_name

SPEC = by_name("llama-3.1-8b").spec()
NEMO = {
    "model": {"pretrained_model_name_or_path": "meta-llama/Llama-3.1-8B"}, "distributed": {"tp_size": 2},
    "peft": {"dim": 8, "alpha": 16, "target_modules": ["q_proj"]}, "step_scheduler": {"global_batch_size": 1},
}  # fmt: skip
AXOLOTL = {
    "base_model": "meta-llama/Llama-3.1-8B", "tensor_parallel_size": 2, "adapter": "lora", "lora_r": 8,
    "lora_alpha": 16, "lora_target_modules": ["q_proj"],
}  # fmt: skip
WRONG = Diagnosis(Cause.ADAPTER_LAYOUT, "q_proj", ["q"], "", "adapters of the size of a shard", False)


def sides(**peft):
    nemo = {**NEMO, "peft": {**NEMO["peft"], **peft}}
    return [Side("nemo", registry.parse("nemo@0.7.0"), nemo, "in"),
            Side("axolotl", registry.parse("axolotl@0.19.0"), AXOLOTL, "out")]  # fmt: skip


def answer(case, verdict, length=2.0):
    found = ProofAnswer(case.target.id, case.model.name, case.scenario.name, case.tp, verdict, sentence="1 differs")
    found.parameters = [ParameterProof("model.layers.0.q_proj.lora_A.weight", 0.0, 1e-9, True, reference_norm=length)]
    found.environment = {"packages": {"peft": "0.20.0", "transformers": "5.16.1"}}
    found.diagnosis = [WRONG] if verdict is Verdict.DIFFERENT else []
    return found


@pytest.fixture
def told(monkeypatch):
    """`told(pair, verdict, length)`: the checks where the second side has this verdict in every case with LoRA."""

    def run(pair, verdict=Verdict.EQUAL, length=2.0):
        asked = []

        def prove(cases, options, say, watch, worlds):
            asked.extend(f"{case.target.family.name} {case.scenario.name}" for case in cases)
            second = cases[0].target.family.name == "axolotl"
            answers = [
                answer(case, verdict if second and "lora" in case.scenario.name else Verdict.EQUAL,
                       length if second else 2.0)
                for case in cases
            ]  # fmt: skip
            return proofs.prove.Proofs(answers, [], 0)

        monkeypatch.setattr(proofs.prove, "run", prove)
        return proofs.proven(pair, SPEC, 2, lambda kind, text: None), asked

    return run


def test_two_right_sides_are_equal_by_the_same_lengths(told):
    checks, asked = told(sides())
    assert {check.standing for check in checks} == {Standing.OK}
    assert "1 parameters by the same lengths" in checks[1].sentence
    assert asked == [
        f"{side} {name}" for side in ("nemo", "axolotl") for name in ("lora", "clip+lora", "clip+lora+step")
    ]


def test_other_lengths_are_told(told):
    assert "1 of 1 parameters by other lengths" in told(sides(), length=2.1)[0][1].sentence


def test_a_wrong_target_fails_and_its_bug_is_named(told):
    checks, _ = told(sides(), Verdict.DIFFERENT)
    (wrong,) = [check for check in checks if check.standing is Standing.FAILED]
    assert "lora, clip+lora, clip+lora+step different: adapters of the size of a shard" in wrong.sentence
    assert "bugs/axolotl-lora-adapters" in wrong.sentence
    assert (checks[0].source, checks[0].target) == ("equal", "different")


def test_a_wrong_source_is_told_and_no_failure(told):
    checks, _ = told(sides()[::-1], Verdict.DIFFERENT)
    assert Standing.FAILED not in {check.standing for check in checks}
    assert any("bugs/axolotl-lora-adapters" in check.sentence for check in checks)


@pytest.mark.parametrize(("position", "named"), [("pre", False), ("post", True)])
def test_dropout_before_a_is_not_proved_as_if_it_were_after_b(told, position, named):
    checks, asked = told(sides(dropout=0.1, dropout_position=position))
    assert any("dropout" in name for name in asked if name.startswith("nemo")) is named
    assert any("without LoRA's dropout" in check.sentence for check in checks) is not named


def test_without_tensor_parallelism_there_is_nothing_to_prove(told):
    pair = sides()
    pair[0].data["distributed"] = {}
    checks, asked = told(pair)
    assert not asked
    assert [check.standing for check in checks] == [Standing.UNCHECKED]
