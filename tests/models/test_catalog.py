"""The catalog holds 25 published configs, each with where it was taken from."""

import pytest

from tpscope.errors import UserError
from tpscope.models import catalog

NAMES = (
    "command-r", "deepseek-v3", "falcon-h1-7b", "gemma-2-9b", "gemma-3-1b", "gemma-3-27b", "glm-4-9b", "gpt-oss-20b",
    "granite-3-8b", "llama-3.1-405b", "llama-3.1-70b", "llama-3.1-8b", "llama-3.2-1b", "mistral-7b", "mixtral-8x7b",
    "olmo-2-7b", "phi-2", "phi-3-mini", "phi-4", "qwen2.5-7b", "qwen3-0.6b", "qwen3-30b-a3b", "qwen3-32b", "qwen3-8b",
    "smollm3-3b",
)  # fmt: skip


def test_the_catalog_has_exactly_these_models():
    assert catalog.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_says_where_it_is_from(name):
    entry = catalog.entry(name)
    assert entry.status in ("confirmed", "unconfirmed")
    assert set(entry.source) == {"retrieved_from", "canonical", "retrieved_on"}
    assert entry.hub_ids
    assert entry.config["model_type"]
    assert entry.config["architectures"]
    assert entry.status == "confirmed" or entry.notes.startswith("Unconfirmed: ")


def test_no_hub_id_stands_for_two_entries():
    ids = [hub_id.lower() for name in NAMES for hub_id in catalog.entry(name).hub_ids]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("text", ["llama-3.1-8b", "Llama-3.1-8B", "meta-llama/Llama-3.1-8B", "META-LLAMA/llama-3.1-8b"])
def test_an_entry_is_found_by_name_and_hub_id_in_any_case(text):
    assert catalog.entry(text).name == "llama-3.1-8b"


def test_an_unknown_name_is_answered_with_the_closest():
    with pytest.raises(UserError, match=r"lama-3.1-8 is not in the catalog; the closest names are llama-3\.1-8b"):
        catalog.entry("lama-3.1-8")


def test_specs_of_one_entry_do_not_share_their_config():
    first, second = catalog.entry("phi-2").spec(), catalog.entry("phi-2").spec()
    first.config["hidden_size"] = 1
    assert second.config["hidden_size"] == catalog.entry("phi-2").config["hidden_size"] == 2560


@pytest.mark.parametrize("name", NAMES)
def test_transformers_builds_as_many_parameters_as_are_published(name):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    entry = catalog.entry(name)
    config = {key: value for key, value in entry.config.items() if key != "quantization_config"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    built = sum(parameter.numel() for parameter in model.parameters())
    if entry.published_parameters is None:
        assert entry.status == "unconfirmed"
        print(
            f"{name}: {built} parameters built, no count published ({entry.published_parameters_text}). {entry.notes}"
        )
        return
    left_out = (entry.parameters_not_built or {"count": 0})["count"]
    assert built == entry.published_parameters - left_out
