"""What price says of real models in real frameworks, at full width."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from tpscope.compare.ask import Wishes, question
from tpscope.frameworks import registry
from tpscope.models.repeat import cut, repeat_of
from tpscope.price import hardware
from tpscope.price.check import check
from tpscope.price.measured import read
from tpscope.price.run import Setting, price
from tpscope.price.trace import Step, traced
from tpscope.render import document

pytestmark = pytest.mark.frameworks


def prices(pool, model, *frameworks, sequence=8192, **wishes):
    setting = Setting(hardware.machine("h200"), "h200", 1, sequence)
    return price(question(model, Wishes(**wishes)), [registry.parse(text) for text in frameworks], pool, setting)


def test_seven_all_reduces_a_layer_where_four_are_needed_and_who_gathers_the_logits(pool):
    result = prices(pool, "qwen3-8b", "nemo@0.7.0", "axolotl@0.19.0", tp=2)
    for column in result.frameworks:
        found = {(item.phase, item.kind): (item.issued, item.needed) for item in column.waste}
        assert found == {("forward", "all_reduce"): (2, 2), ("backward", "all_reduce"): (5, 2)}
        assert "5 backward all-reduces a layer, 2 needed" in [item.sentence for item in column.waste]
    nemo, hf = (column.head for column in result.frameworks)
    assert (nemo.gathered_by, nemo.dtype) == ("loss", "float32")
    assert "full_tensor" in nemo.where.text
    assert (hf.gathered_by, hf.dtype) == ("plan", "bfloat16")
    assert nemo.bytes == 2 * hf.bytes == 8192 * 151936 * 4
    tree = json.loads(document.document(result))
    jsonschema.validate(tree, json.loads(Path("docs/schema/price.json").read_text()))


def test_sequence_parallelism_gathers_and_scatters_four_times_and_saves_activations(pool):
    column = prices(pool, "qwen3-8b", "nemo@0.7.0", tp=2, sequence_parallel=True).frameworks[0]
    issued = {}
    for item in column.waste:
        issued[item.kind] = issued.get(item.kind, 0) + item.issued
        assert item.issued == item.needed
    assert issued == {"all_gather": 4, "reduce_scatter": 4}
    saved = column.sequence_parallel
    assert saved.bytes < 0.9 * saved.without_bytes


def test_a_setting_that_a_framework_does_not_have_changes_nothing_and_that_is_said(pool):
    column = prices(pool, "qwen3-8b", "axolotl@0.19.0", tp=2, sequence_parallel=True).frameworks[0]
    assert column.sequence_parallel.sentence == "sequence parallelism was asked for and changes nothing"


def peaks_are_met(pool, cases):
    held = check(cases, hardware.machine("h200"), "h200", pool)
    assert held.left_out == []
    errors = [abs(item.memory_error) for item in held.held]
    assert len(errors) == len(cases) > 0
    assert max(errors) < 0.05
    # The peak of one is not the peak of another.
    wrong = [case.model_copy(update={"memory": {"peak_bytes": case.peak // 2}}) for case in cases]
    assert max(abs(item.memory_error) for item in check(wrong, hardware.machine("h200"), "h200", pool).held) > 0.05


MEASURED = [case for case in read(["tests/data/measured-before.jsonl"]).cases if case.peak]


def test_a_peak_that_was_measured_on_gpus_is_met_within_five_percent(pool):
    # Its step is the one that the first test has traced.
    cases = [case for case in MEASURED if (case.model, case.stands_for) == ("qwen3-8b", "axolotl@0.19.0")]
    assert len(cases) == 1
    peaks_are_met(pool, cases)


@pytest.mark.sweep
def test_every_peak_that_was_measured_before_is(pool):
    assert len(MEASURED) == 4
    peaks_are_met(pool, MEASURED)


def test_a_model_traced_with_few_layers_is_the_one_that_is_traced_whole(pool):
    asked, target = question("qwen3-0.6b", Wishes(tp=2)), registry.parse("nemo@0.7.0")
    asked = replace(
        asked, model=replace(asked.model, config=cut(asked.model.config, repeat_of(asked.model.config), 10))
    )
    pool.prepare([target])
    few, whole = (traced(asked, target, pool, Step(1, 512), whole=whole).trace for whole in (False, True))
    assert few.layers == whole.layers == 10
    assert "scaled to 10" in few.assumptions[-1]

    def counts(trace):
        return {(item.phase, item.module, item.name, str(item.shapes)): item.count for item in trace.operations}

    assert counts(few) == counts(whole)
    assert [item.count for item in few.collectives] == [item.count for item in whole.collectives]


def test_fsdp_is_priced_for_nemo_over_the_network(pool):
    asked = (pool, "qwen3-0.6b", "nemo@0.7.0")
    nemo = prices(*asked, sequence=512, tp=2, dp_shard=8).frameworks[0]
    assert any("scaled to 28" in words for words in nemo.assumptions)
    found = {(item.axis, item.kind) for item in nemo.collectives}
    assert {("tp", "all_reduce"), ("dp_shard", "all_gather"), ("dp_shard", "reduce_scatter")} <= found
    assert "overlapped communication" in [part.name for part in nemo.time.parts]
    alone = prices(*asked, sequence=512, tp=2).frameworks[0]
    weights = [column.memory.by_category["weights"] for column in (nemo, alone)]
    assert 7.5 < weights[1] / weights[0] < 8.5
    assert "overlapped communication" not in [part.name for part in alone.time.parts]


def test_a_mixture_of_experts_is_priced_for_a_balanced_router_and_says_so(pool):
    column = prices(pool, "qwen3-30b-a3b", "axolotl@0.19.0", tp=4, sequence=4096).frameworks[0]
    assert "every one of 128 experts gets as many tokens as the next" in column.assumptions
    # Six FLOPs a parameter and token, of the 3.3 billion that a token meets, over four ranks, and attention.
    assert 6 * 3.0e9 * 4096 / 4 < column.flops < 6 * 4.5e9 * 4096 / 4


def test_a_framework_that_refuses_is_a_column_that_says_so(pool):
    column = prices(pool, "gpt-oss-20b", "nemo@0.7.0", tp=4, sequence=1024).frameworks[0]
    assert (column.status.value, "no TP plan" in column.error.message) == ("refused", True)


def test_a_forward_that_the_framework_stops_has_no_price(pool):
    column = prices(pool, "olmo-2-7b", "nemo@0.7.0", sequence=2048, tp=2).frameworks[0]
    assert (column.status.value, column.error.phase) == ("crashed", "forward")
    assert (column.time.ms, column.fits, column.collectives) == (0.0, None, [])
