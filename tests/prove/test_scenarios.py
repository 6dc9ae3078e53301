"""Scenarios are small entries that combine."""

import pytest

from tpscope.errors import UserError
from tpscope.prove.scenarios import TABLE, applied, parse, parse_all


def test_names_combine_in_any_order_to_one_scenario():
    assert parse("lora+sequence-parallel") == parse("sequence-parallel + lora+plain")
    both = parse("lora+sequence-parallel")
    assert both.name == "lora+sequence-parallel"
    assert both.sequence_parallel
    assert both.lora.r == 4


def test_dropout_is_also_the_adapters():
    assert parse("lora+dropout").lora.dropout == parse("dropout").dropout > 0
    assert parse("lora").lora.dropout == 0


def test_a_list_has_no_duplicates_and_means_plain_when_it_is_empty():
    assert [scenario.name for scenario in parse_all("plain,accumulate,,plain")] == ["plain", "accumulate"]
    assert [scenario.name for scenario in parse_all("")] == ["plain"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("acumulate", "did you mean accumulate"),
        ("lora+xyzzy", "known are plain"),
        ("mask+packed", "cannot be combined"),
    ],
)
def test_a_scenario_that_cannot_be_meant_is_one_sentence(text, words):
    with pytest.raises(UserError, match=words):
        parse(text)


def test_layouts_of_the_composed_ones():
    assert parse("fsdp").layout(2).world == parse("cp").layout(2).world == parse("pp").layout(2).world == 4


def test_every_scenario_but_plain_changes_something_and_says_what_it_proves():
    for name, entry in TABLE.items():
        assert bool(entry.changes) == (name != "plain")
        assert entry.proves


def test_the_config_carries_what_the_scenario_sets():
    config = {"attention_dropout": 0.0, "text_config": {"tie_word_embeddings": False, "resid_pdrop": 0.0}}
    assert applied(config, parse("tied")) == {
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "text_config": {"tie_word_embeddings": True, "resid_pdrop": 0.0},
    }
    changed = applied(config, parse("dropout"))
    assert changed["attention_dropout"] == changed["text_config"]["resid_pdrop"] == 0.1
    assert applied({"hidden_size": 8}, parse("dropout"))["attention_dropout"] == 0.1
    assert config["attention_dropout"] == 0.0
