"""Predictions held against rows of bench, and constants fitted to them, on rows made by hand."""

import json

import pytest
from made import GIB, collective, machine, memory, operation, trace

from tpscope.compare.ask import Wishes, question
from tpscope.errors import UserError
from tpscope.price import calibrate, hardware
from tpscope.price.check import accuracy, compared, identity, predicted
from tpscope.price.measured import Calibration, Case, Known, read, unmodelled


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


def single(kind, ms, **size):
    return Calibration(kind=kind, size=size, milliseconds=ms)


def test_single_kernels_give_their_constants():
    one, both = {"sequence": 8192, "heads": 4, "kv_heads": 1, "head_dim": 128}, 2 * 8192**2 * 128 * 4 / 1e12
    rows = [
        single("matmul", 2000.0, m=10**4, n=10**4, k=5 * 10**3),
        single("memory", 2000.0, bytes=10**9),
        single("memory", 2000.0, bytes=10),
        single("dispatch", 0.005, op="eager_add"),
        single("dispatch", 0.065, op="dtensor_add"),
        single("dispatch", 0.003, op="module_call"),
        single("attention", 4e3 * both, **one, **{"pass": "forward"}),
        single("attention", 9e3 * both, **one, **{"pass": "forward+backward"}),
    ]
    found = calibrate.from_kernels(rows, machine())
    assert found == pytest.approx(
        {
            "compute.reached.large": 0.5, "compute.reached.attention": 0.25, "compute.reached.attention_backward": 0.5,
            "memory.reached": 0.5, "dispatch.operator": 5e-6, "dispatch.dtensor": 60e-6, "dispatch.module": 3e-6,
        }
    )  # fmt: skip


def test_alpha_and_beta_of_the_link_are_found_again():
    true = machine(link__reached=0.25, link__latency=2e-5)
    rows = [
        single("collective", 1e3 * (2e-5 + sent / 0.25e9), op=op, ranks=2, bytes=size)
        for size in (2**16, 2**20, 2**26)
        for op, sent in (("all_reduce", size), ("all_gather", size / 2))
    ]
    found = calibrate.from_kernels(rows, machine())
    assert found["link.reached"] == pytest.approx(true.link.reached)
    assert found["link.latency"] == pytest.approx(true.link.latency)


def test_cases_move_the_cost_of_the_cpu_until_they_are_met():
    step = trace([operation(count=1000)], [collective(count=1)])
    cases = [
        Known(Case.model_validate(row(ms=ms)), question("llama-3.1-8b", Wishes(tp=2)), step) for ms in (40.0, 40.4)
    ]
    start = machine(dispatch__operator=1e-5)
    found = calibrate.from_cases(cases, start, {})
    assert predicted(cases[0], start)[0] == pytest.approx(10.0, rel=0.2)
    assert predicted(cases[0], start.with_constants(found))[0] == pytest.approx(40.0, rel=0.1)


def test_what_is_held_out_is_not_calibrated_on():
    cases = [
        Case.model_validate(row(**more))
        for more in ({}, {"model": "qwen3-8b"}, {"sequence": 4096}, {"compiled": True}, {"sequence": 8192})
    ]
    assert [case.sequence for case in calibrate.chosen(cases, "qwen3-8b", 4096)] == [2048, 8192]


def test_what_is_written_is_read_again_with_its_rows(tmp_path):
    case = Case.model_validate(row())
    text = calibrate.section({"compute.reached.large": 0.5}, [case], [], ["results/bench-a.jsonl"])
    base = (hardware.resources.files("tpscope.price") / "machines" / "a100.toml").read_text()
    found = hardware.parsed("a100", f"{base}\n{text}")
    assert found.compute.reached.large == 0.5
    assert identity(case) in found.calibrated.rows
    with pytest.raises(UserError, match="no constant of a machine"):
        hardware.parsed("a100", f"{base}\n{text}".replace("reached.large", "reached.huge"))


def test_a_file_without_rows_of_a_gpu_calibrates_nothing(tmp_path):
    file = tmp_path / "bench.jsonl"
    file.write_text(json.dumps(row(rehearsal=True)) + "\n")
    with pytest.raises(UserError, match="no row of a GPU"):
        calibrate.calibrate([str(file)], machine(), "", 0, lambda case: "not asked")
