"""What a framework is known to do wrong with a file is told before the user moves: by the mesh, not by keys alone."""

import pytest

from tpscope.frameworks import registry
from tpscope.language.keys import KeysAnswer
from tpscope.migrate.checks import Side, meaning, pitfalls
from tpscope.migrate.job import Ranks
from tpscope.migrate.result import Standing
from tpscope.models.catalog import by_name

SPEC = by_name("llama-3.1-8b").spec()
TIED = by_name("llama-3.2-1b").spec()
DATA = {"base_model": "meta-llama/Llama-3.1-8B", "tensor_parallel_size": 2, "fsdp_version": 2, "fsdp_config": {"x": 1}}
PACKAGES = {"transformers": "5.16.1", "accelerate": "1.13.0", "peft": "0.20.0"}


def said(world, spec=SPEC, standing=Standing.WARNING, **changes):
    mesh = {"dp_shard": world // 2, "tp": 2} if world > 2 else {"tp": 2}
    answer = KeysAnswer("axolotl@0.19.0", mesh=mesh, packages=PACKAGES)
    side = Side("axolotl", registry.parse("axolotl@0.19.0"), {**DATA, **changes}, "out", answer)
    return pitfalls(side, spec, world, standing)


@pytest.mark.parametrize(("world", "refused"), [(2, False), (4, True)])
def test_data_ranks_that_axolotl_fills_in_by_itself_count(world, refused):
    assert any("bugs/axolotl-fsdp-tp-refused" in check.sentence for check in said(world)) is refused


def test_lora_under_tp_is_warned_of_and_full_training_is_not():
    lora = {"adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_target_modules": ["q_proj"]}
    (found,) = [check for check in said(2, **lora) if "bugs/axolotl-lora-adapters" in check.sentence]
    assert found.standing is Standing.WARNING
    assert not any("bugs/axolotl-lora-adapters" in check.sentence for check in said(2))


@pytest.mark.parametrize(("standing", "tied"), [(Standing.WARNING, Standing.FAILED), (Standing.TOLD, Standing.TOLD)])
def test_a_refusal_fails_where_the_user_goes_and_is_told_of_what_stays_behind(standing, tied):
    found = [check.standing for check in said(2, TIED, standing) if "ties its embeddings" in check.sentence]
    assert found == [tied]


@pytest.mark.parametrize(("mesh", "same"), [({}, True), ({"dp_shard": 4, "tp": 1}, True), ({"dp_shard": 2}, False)])
def test_copies_without_a_mesh_are_data_ranks(mesh, same):
    pair = [Side("axolotl", registry.parse("axolotl@0.19.0"), DATA, "in", KeysAnswer("a", mesh={"dp_shard": 4})),
            Side("nemo", registry.parse("nemo@0.7.0"), {}, "out", KeysAnswer("n", mesh=mesh))]  # fmt: skip
    (check,) = [item for item in meaning(*pair, Ranks(4, data=4)) if item.name == "mesh"]
    assert (check.standing is Standing.OK) is same
