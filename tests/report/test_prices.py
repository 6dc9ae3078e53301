"""The performance prediction matrix in the study, and Q4, from rows made by hand."""

import json

from tpscope.price.matrix import Cell
from tpscope.report import register
from tpscope.report.experiments import store
from tpscope.report.experiments.bench_rows import benched
from tpscope.report.experiments.price_rows import Price
from tpscope.report.facts import Study
from tpscope.report.judges import performance
from tpscope.report.judges.view import View
from tpscope.report.rows import Provenance
from tpscope.report.sections import prices, summary

MADE = Provenance("abc", "2026-11-23", {"cpus": 2, "platform": "p", "python": "3"})
NEMO, AXOLOTL = "nemo@0.7.0", "axolotl@0.19.0"
LOSS = "TheLoss"


def price(framework, ms, model="llama-3.1-8b", tp=2, sequence=4096, hardware="h200", **more):
    fields = {
        "standing": "calibrated", "step_ms": ms + 10.0, "pass_ms": ms, "parts": {"compute": ms}, "loss": LOSS,
        "peak_bytes": 2**31, "by_category": {"weights": 2**30}, "sent_bytes": {"all_reduce": 10**9}, "fits": True,
    }  # fmt: skip
    cell = Cell(model, tp, framework, hardware, 1, sequence, **fields | more)
    command = f"python -m tpscope.report.experiments.price --with {framework}"
    return Price(framework=framework, command=command, made=MADE, cell=cell)


def case(framework, ms, model="llama-3.1-8b", stands_for=None, **more):
    return {
        "row": "case", "framework": framework, "stands_for": stands_for, "model": model, "sequence": 4096,
        "layout": {"tp": 2, "sequence_parallel": False}, "loss": LOSS, "compiled": False, "rehearsal": False,
        "scope": "forward-backward", "milliseconds": {"median": ms, "low": ms - 1, "high": ms + 1, "repeats": 7},
        "memory": {"peak_bytes": 1}, "packages": {"torch": "2.11.0", "kernels": None}, "hardware": "NVIDIA H200 x2",
        "command": "torchrun --nproc-per-node 2 -m tpscope.bench --site /somewhere/site --out /somewhere/rows.jsonl",
        "commit": "abc", "date": "2026-11-23T05:42:11+00:00", **more,
    }  # fmt: skip


def written(root, *cases):
    (root / "results").mkdir(exist_ok=True)
    text = "".join(json.dumps(one) + "\n" for one in cases)
    (root / "results" / "bench-h200.jsonl").write_text(text)
    return benched(root)


def both(root, *more):
    return written(root, case(NEMO, 110.0), case("transformers@5.16.1", 100.0, stands_for=AXOLOTL), *more)


def test_cases_of_bench_are_read_without_folders_and_only_those_that_were_timed(tmp_path):
    rows = both(tmp_path, case(NEMO, 1.0, rehearsal=True), case(NEMO, 1.0, milliseconds=None))
    assert [(row.framework, row.ran) for row in rows] == [(NEMO, NEMO), (AXOLOTL, "transformers@5.16.1")]
    assert rows[0].command == f"torchrun --nproc-per-node 2 -m tpscope.bench --with {NEMO}"
    assert "/somewhere" not in store.text_of(rows)
    assert [store.read_line(text) for text in store.text_of(rows).splitlines()] == rows


def test_prices_are_recorded_in_a_file_of_their_own_and_replace_those_of_their_framework(tmp_path):
    store.record(tmp_path, [price(NEMO, 100.0), price(AXOLOTL, 90.0)])
    store.record(tmp_path, [price(NEMO, 105.0)])
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["price.jsonl"]
    assert {row.framework: row.cell.pass_ms for row in store.read(tmp_path)} == {NEMO: 105.0, AXOLOTL: 90.0}


def test_the_matrix_has_time_memory_traffic_and_measured_beside_predicted(tmp_path):
    refused = price(NEMO, 0.0, model="qwen2.5-7b", status="refused", said="ValueError: odd heads")
    rows = [price(NEMO, 99.0), price(AXOLOTL, 105.0), price(NEMO, 50.0, hardware="h100"), refused]
    text = "\n".join(prices.section(Study([], (), [*rows, *both(tmp_path)])))
    assert text.count("<!-- plot: stacked -->") == 3
    assert "| `llama-3.1-8b` | 2 | nemo@0.7.0 | 109 | yes | 0 | 60 | yes | 0 |" in text
    assert "| **refused** | `ValueError: odd heads` |" in text
    assert "the error is 8% in the median and 10% at the worst" in text
    assert "| 99 (calibrated) | -10% |" in text
    assert "measured on" not in "\n".join(prices.section(Study([], (), rows)))
    assert prices.section(Study([])) == []


def test_a_case_of_another_loss_or_machine_is_not_held_against_a_price(tmp_path):
    cases = both(tmp_path)
    assert len(prices.pairs(Study([], (), [price(NEMO, 99.0), *cases]))) == 1
    for other in (price(NEMO, 99.0, loss="Another"), price(NEMO, 99.0, hardware="h100")):
        assert prices.pairs(Study([], (), [other, *cases])) == []


def test_q4_tells_measured_predicted_and_that_only_two_gpus_were_there(tmp_path):
    rows = [price(NEMO, 99.0), price(AXOLOTL, 105.0), price(NEMO, 30.0, tp=8), price(AXOLOTL, 30.0, tp=8)]
    reply = performance.clusters(View(Study([], (), [*rows, *both(tmp_path)]), NEMO, AXOLOTL))
    assert "nemo@0.7.0 takes 1.10 to 1.10 (median 1.10) times axolotl@0.19.0's" in reply.verdict
    assert performance.CAVEAT in reply.verdict
    assert "nemo@0.7.0 measured 110 ms, predicted 99 (-10%)" in reply.words
    assert "predicted for h200 at tp=8 (calibrated): 1.00 to 1.00" in reply.words
    unmeasured = performance.clusters(View(Study([], (), rows), NEMO, AXOLOTL))
    assert (unmeasured.verdict, "not measured yet" in unmeasured.words) == ("", True)


def test_the_register_asks_the_rows_of_price_and_bench(tmp_path):
    (found,) = [item for item in register.answered(Study([])) if item.id == "Q4"]
    assert (found.verdict, found.verbs) == ("", ("price", "bench"))


def test_section_11_points_to_the_matrix_where_there_are_rows():
    assert "not measured yet (price)" in "\n".join(summary.section(Study([])))
    assert "Predicted memory, traffic and time: the tables of the performance prediction matrix" in "\n".join(
        summary.section(Study([], (), [price(NEMO, 99.0)]))
    )


def test_which_is_faster_follows_what_was_measured(tmp_path):
    priced = [price(NEMO, 100.0), price(AXOLOTL, 100.0)]
    slow = performance.faster(View(Study([], (), [*both(tmp_path), *priced]), NEMO, AXOLOTL))
    assert slow.met is False
    assert "measured on two GPUs, nemo@0.7.0 takes 1.10 to 1.10 (median 1.10) times" in slow.words
    turned = written(tmp_path, case(NEMO, 90.0), case("transformers@5.16.1", 100.0, stands_for=AXOLOTL))
    assert performance.faster(View(Study([], (), [*turned, *priced]), NEMO, AXOLOTL)).met is True


def test_a_prediction_tells_which_is_faster_only_beyond_its_own_error(tmp_path):
    measured = both(tmp_path)  # 110 and 100 ms: predictions of 100 are up to a tenth off.
    known = [*measured, price(NEMO, 100.0), price(AXOLOTL, 100.0), price("axolotl@0.13.2", 100.0)]

    def asked(ms, standing="calibrated"):
        rows = [*known, price("nemo@0.2.0", ms, standing=standing)]
        return performance.faster(View(Study([], (), rows), "nemo@0.2.0", "axolotl@0.13.2"))

    assert asked(105.0).met is None
    assert asked(130.0).met is False
    assert asked(70.0).met is True
    assert asked(130.0, "uncalibrated").met is None
