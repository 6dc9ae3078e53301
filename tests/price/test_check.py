"""Predictions held against rows of bench, and constants fitted to them, on rows made by hand."""

import json

import pytest
from made import GIB, collective, machine, memory, operation, trace

from tpscope.compare.ask import Wishes, question
from tpscope.errors import UserError
from tpscope.price import calibrate, hardware
from tpscope.price.check import accuracy, compared, identity, predicted
from tpscope.price.measured import Case, Known, Spread, read, unmodelled


def row(framework="nemo@0.7.0", ms=1000.0, sequence=2048, peak=3 * GIB, **more):
    return {
        "row": "case", "framework": framework, "model": "llama-3.1-8b", "layout": {"tp": 2, "sequence_parallel": False},
        "batch": 1, "sequence": sequence, "compiled": False, "scope": "forward-backward", "loss": "",
        "milliseconds": {"median": ms, "low": ms, "high": ms, "repeats": 7}, "memory": {"peak_bytes": peak},
        "hardware": "NVIDIA H200 x2", "torch": "2.11.0", "date": "2026-11-23", "order": 1, **more,
    }  # fmt: skip


def known(ms=1000.0, seconds=1.0, **more):
    """A case with a step that takes so many seconds on a machine of a TFLOP/s."""
    case = Case.model_validate(row(ms=ms, **more))
    step = trace(
        [operation(flops=int(seconds * 1e12)), operation(phase="step", flops=10**12)],
        memory=memory(("forward", GIB, 2 * GIB, 5 * GIB), ("step", GIB, 20 * GIB, 5 * GIB)),
    )
    return Known(case, question("llama-3.1-8b", Wishes(tp=2)), step)


def test_the_scope_that_was_measured_is_the_one_that_is_predicted():
    assert predicted(known(), machine()) == (pytest.approx(1000.0), 3 * GIB)
    assert predicted(known(scope="step"), machine()) == (pytest.approx(2000.0), 26 * GIB)


def test_errors_are_relative_to_what_was_measured():
    held = compared(known(ms=800.0, peak=4 * GIB), machine(), used=False)
    assert held.time_error == pytest.approx(0.25)
    assert held.memory_error == pytest.approx(-0.25)


def test_medians_and_the_worst_are_told_and_order_is_counted_in_pairs_that_are_apart():
    held = [
        compared(known(ms=ms, seconds=seconds), machine(), False)
        for ms, seconds in ((1000.0, 1.1), (1020.0, 1.0), (2000.0, 1.05), (3000.0, 3.0))
    ]
    found = accuracy(held)
    assert (found.cases, found.worst_time_error) == (4, pytest.approx(0.475))
    # Six pairs; the first two cases are within 5 %, and the first is predicted above the third.
    assert (found.pairs, found.ordered) == (5, 4)


def test_pairs_whose_repeats_overlap_are_told_apart_from_those_that_are_apart():
    near, far = known(ms=1000.0, seconds=1.0), known(ms=1100.0, seconds=0.9)
    pair = [compared(item, machine(), False) for item in (near, far)]
    assert (accuracy(pair).pairs, accuracy(pair).apart, accuracy(pair).apart_ordered) == (1, 1, 0)
    pair[0].high_ms = 1150.0
    assert (accuracy(pair).pairs, accuracy(pair).apart) == (1, 0)


def test_what_was_there_before_a_model_is_no_part_of_its_peak():
    bytes_of = {"peak_bytes": 9 * GIB, "after_load": 5 * GIB, "weights": 2 * GIB}
    assert Case.model_validate(row(memory=bytes_of)).peak == 6 * GIB
    assert Case.model_validate(row(memory=bytes_of | {"after_load": 2 * GIB})).peak == 9 * GIB
    assert Case.model_validate(row(memory=bytes_of | {"after_load": 0})).peak == 9 * GIB


def test_cases_of_another_model_are_not_paired():
    held = [compared(known(ms=ms, model=model), machine(), False) for ms, model in ((1.0, "a"), (9.0, "b"))]
    assert accuracy(held).pairs == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"compiled": True}, "compiled"),
        ({"rehearsal": True}, "rehearsal"),
        ({"error": "CUDA out of memory", "milliseconds": None}, "out of memory"),
    ],
)
def test_what_no_trace_stands_in_for_is_left_out_and_said(more, words):
    assert words in unmodelled(Case.model_validate(row(**more)))
    assert unmodelled(Case.model_validate(row())) == ""


def test_rows_are_read_and_a_line_that_is_none_is_named(tmp_path):
    file = tmp_path / "bench.jsonl"
    single = {"row": "calibration", "kind": "matmul", "size": {"m": 1, "n": 1, "k": 1}, "milliseconds": 1.0}
    file.write_text("\n".join(json.dumps(item) for item in (row(), single, {"row": "verdict"})) + "\n")
    rows = read([str(file)])
    assert (len(rows.cases), len(rows.calibration)) == (1, 1)
    file.write_text('{"row": "case"}\n')
    with pytest.raises(UserError, match=r"bench.jsonl:1: not a row of bench"):
        read([str(file)])
    with pytest.raises(UserError, match="no such file"):
        read([str(tmp_path / "none.jsonl")])


def test_cases_move_the_cost_of_the_cpu_until_they_are_met():
    step = trace([operation(count=1000)], [collective(count=1)])
    cases = [
        Known(Case.model_validate(row(ms=ms)), question("llama-3.1-8b", Wishes(tp=2)), step) for ms in (40.0, 40.4)
    ]
    start = machine(dispatch__operator=1e-5)
    found = calibrate.from_cases(cases, start, {"dispatch.operator": 1e-5})
    assert predicted(cases[0], start)[0] == pytest.approx(10.0, rel=0.2)
    assert predicted(cases[0], start.with_constants(found))[0] == pytest.approx(40.0, rel=0.1)


def test_a_case_that_spreads_moves_the_constants_less():
    step = trace([operation(count=1000)])
    noisy = {"median": 40.0, "low": 20.0, "high": 60.0, "repeats": 7}

    def fitted(spread):
        steady, other = (Case.model_validate(row(ms=ms)) for ms in (10.0, 40.0))
        other = other.model_copy(update={"milliseconds": spread or other.milliseconds})
        cases = [Known(case, question("llama-3.1-8b", Wishes(tp=2)), step) for case in (steady, other)]
        start = {"dispatch.operator": 1e-5}
        found = calibrate.from_cases(cases, machine(dispatch__operator=1e-5), start)
        return predicted(cases[0], machine().with_constants(found))[0]

    assert fitted(None) == pytest.approx(20.0, rel=0.1)
    assert fitted(Spread.model_validate(noisy)) == pytest.approx(10.0, rel=0.1)


def test_what_an_operator_costs_less_in_the_backward_is_found_from_the_forward():
    step = trace([operation(count=1000), operation(phase="backward", count=1000)])
    ahead = {"median": 20.0, "low": 20.0, "high": 20.0, "repeats": 7}
    case = Case.model_validate(row(ms=26.0, forward_milliseconds=ahead))
    item = Known(case, question("llama-3.1-8b", Wishes(tp=2)), step)
    found = calibrate.from_cases([item], machine(dispatch__operator=1e-5), {"dispatch.operator": 1e-5})
    assert found["dispatch.backward"] < 0.6
    blind = Known(case.model_copy(update={"forward_milliseconds": None}), item.question, step)
    found = calibrate.from_cases([blind], machine(dispatch__operator=1e-5), {"dispatch.operator": 1e-5})
    assert found["dispatch.backward"] > 0.8


def test_what_is_held_out_is_not_calibrated_on():
    cases = [
        Case.model_validate(row(**more))
        for more in ({}, {"model": "qwen3-8b"}, {"sequence": 4096}, {"compiled": True}, {"sequence": 8192})
    ]
    assert [case.sequence for case in calibrate.chosen(cases, "qwen3-8b", 4096)] == [2048, 8192]


def test_what_is_written_is_read_again_with_its_rows(tmp_path):
    case = Case.model_validate(row())
    drawn = {"product": ((1e9, 1e-5), (1e10, 5e-5))}
    text = calibrate.section({"compute.reached.large": 0.5}, drawn, [case], 0, ["results/bench-a.jsonl"], "2.11.0")
    base = (hardware.resources.files("tpscope.price") / "machines" / "a100.toml").read_text()
    found = hardware.parsed("a100", f"{base}\n{text}")
    assert found.compute.reached.large == 0.5
    assert found.curve("product") == drawn["product"]
    assert found.curve("cast") == ()
    assert identity(case) in found.calibrated.rows
    with pytest.raises(UserError, match="no constant of a machine"):
        hardware.parsed("a100", f"{base}\n{text}".replace("reached.large", "reached.huge"))


def test_a_file_without_rows_of_a_gpu_calibrates_nothing(tmp_path):
    file = tmp_path / "bench.jsonl"
    file.write_text(json.dumps(row(rehearsal=True)) + "\n")
    with pytest.raises(UserError, match="no row of a GPU"):
        calibrate.calibrate([str(file)], machine(), "", 0, lambda case: "not asked")
