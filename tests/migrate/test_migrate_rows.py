"""The mapping is data: every row can be run, stands in both frameworks' source, and no key is in two of them."""

from collections import Counter

import pytest
from batch import NAMES

from tpscope.frameworks import overlay, registry
from tpscope.migrate.evidence import found, root_of
from tpscope.migrate.how import HOW
from tpscope.migrate.rows import KINDS, Place, closest, row_of, rows

PLACES = [(row.names, kind, place) for row in rows() for kind, place in row.at.items()]


@pytest.fixture(scope="module")
def roots():
    """Where the source of both lies, installed if need be."""
    for name in NAMES.values():
        overlay.ensure(registry.parse(name), print)
    return {kind: root_of(registry.parse(name)) for kind, name in NAMES.items()}


def test_every_row_names_functions_for_both_directions():
    for row in rows():
        assert set(HOW[row.how]) == set(KINDS), row.names


def test_no_key_is_spelt_out_in_two_rows():
    for kind in KINDS:
        times = Counter(key for row in rows() for key in row.keys[kind] if "*" not in key)
        shared = {key for key, count in times.items() if count > 1}
        assert not shared, (kind, shared)


def test_a_row_without_a_counterpart_says_why():
    for row in rows():
        if row.how == "none":
            assert row.reason, row.names


@pytest.mark.frameworks
@pytest.mark.parametrize(("row", "kind", "place"), PLACES, ids=[f"{kind}:{row[:60]}" for row, kind, _ in PLACES])
def test_the_evidence_of_a_row_stands_in_the_source(row, kind, place, roots):
    assert found(place, roots[kind]).line > 0, f"{row}: {place.path} has no {place.fragment!r}"


@pytest.mark.frameworks
def test_a_fragment_that_is_not_there_is_seen(roots):
    assert found(Place("axolotl/utils/schemas/peft.py", "lora_r: a lie"), roots["axolotl"]).line == 0


def test_a_key_with_a_row_of_its_own_is_not_taken_by_a_wildcard():
    assert row_of("nemo", "model.torch_dtype").how == "precision"
    assert row_of("nemo", "model.rope_theta").how == "overrides"
    assert row_of("nemo", "no_such_section.key") is None


@pytest.mark.parametrize(
    ("kind", "key", "meant"),
    [
        ("axolotl", "tensor_paralel_size", "tensor_parallel_size"),
        ("axolotl", "lora_alfa", "lora_alpha"),
        ("nemo", "step_scheduler.globl_batch_size", "step_scheduler.global_batch_size"),
        ("nemo", "peft.dims", "peft.dim"),
    ],
)
def test_a_misspelt_key_is_told_from_a_known_one(kind, key, meant):
    assert meant in closest(kind, key)
