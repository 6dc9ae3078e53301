"""The layer and the stages of real frameworks: what a hook sees is what the whole run counted."""

import pytest

from tpscope.compare.run import Pool
from tpscope.frameworks import overlay, registry
from tpscope.report.experiments.asking import Asker
from tpscope.report.rows import Provenance

pytestmark = pytest.mark.frameworks
NEMO, AXOLOTL = "nemo@0.7.0", "axolotl@0.19.0"


@pytest.fixture(scope="module")
def asker():
    for name in (NEMO, AXOLOTL):
        if overlay.installed(registry.parse(name)) is None:
            pytest.skip(f"{name} is not installed")
    with Pool(lambda kind, text: None) as pool:
        yield Asker("test", pool, Provenance("", "", {}))


def visits(asker, framework, model, **wishes):
    found = asker.ask("block", registry.parse(framework), model, {}, **wishes).value
    return {visit["name"]: visit for visit in found["visits"]}


def issued(found, way):
    return {name: visit[way] for name, visit in found.items() if visit[way]}


def test_a_plain_layer_reduces_after_its_row_parallel_modules(asker):
    for framework in (NEMO, AXOLOTL):
        found = visits(asker, framework, "llama-3.1-8b")
        once = {"all_reduce": 1}
        assert issued(found, "forward") == {"self_attn.o_proj": once, "mlp.down_proj": once}
        assert set(issued(found, "backward")) == {
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj",
        }  # fmt: skip
        assert found["self_attn.q_proj"]["takes"] == found["input_layernorm"]["gives"]
        assert found["self_attn.o_proj"]["takes"] != found["self_attn.v_proj"]["gives"]


def test_sequence_parallelism_scatters_where_the_plain_layer_reduces(asker):
    found = visits(asker, NEMO, "gemma-3-27b", sequence_parallel=True)
    assert found["self_attn.o_proj"]["forward"] == {"reduce_scatter": 1}
    assert found["self_attn.q_proj"]["forward"] == {"all_gather": 1}
    assert found["input_layernorm"]["shape_in"][1] * 2 == found["input_layernorm"]["whole_in"][1]


def test_a_gather_between_two_modules_belongs_to_neither(asker):
    found = visits(asker, NEMO, "phi-3-mini")
    assert found["mlp.activation_fn"]["before"] == {"all_gather": 1}
    assert found["mlp.gate_up_proj"]["forward"] == found["mlp.activation_fn"]["forward"] == {}
    assert visits(asker, AXOLOTL, "phi-3-mini")["mlp.activation_fn"]["before"] == {}


def stages(asker, model, schedule="1f1b", **more):
    return asker.ask("pipeline", registry.parse(NEMO), model, {"schedule": schedule, **more}, pp=2).value


def test_a_model_is_cut_into_stages_that_are_sharded(asker):
    first, last = stages(asker, "llama-3.1-8b")["stages"]
    assert "model.embed_tokens" in first["modules"]
    assert "lm_head" in last["modules"]
    assert "model.embed_tokens" not in last["modules"]
    assert {group["placement"] for group in first["parameters"]} == {"Shard(dim=0)", "Shard(dim=1)", "Replicate()"}
    assert sum(group["numbers"] for stage in (first, last) for group in stage["parameters"]) == first["whole"]


def test_a_tied_model_and_an_unknown_schedule_are_refused_in_the_splitters_words(asker):
    tied = stages(asker, "llama-3.2-1b")
    assert tied["stages"] == []
    assert "tie_word_embeddings" in tied["error"]["message"]
    assert "Unknown schedule name" in stages(asker, "llama-3.1-8b", "no_such_schedule")["error"]["message"]
