"""All axes together: numbers with three of two ranks each on 8 ranks, sizes with all five on 32 that only pretend."""

import pytest
import torch.distributed as dist
from subjects import batch, gradients, mine, whole
from torch.distributed.tensor import DTensor

from tpscope.engine.collectives import ProcessAxis
from tpscope.engine.context import context_parallel, context_part
from tpscope.engine.data_parallel import fully_shard
from tpscope.engine.gradients import finish_gradients
from tpscope.engine.held import parts, state_of
from tpscope.engine.mesh import build_mesh
from tpscope.engine.parallelize import parallelize
from tpscope.engine.pipeline import Pipeline, split
from tpscope.language.layout import Layout
from tpscope.plan import files

# 8 ranks beside other tests take minutes on 2 cores.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.sweep]
NAME, CHANGES = "qwen3-8b", {"num_hidden_layers": 3, "layer_types": None}


def _prepared(plan, layout):
    mesh = build_mesh(layout, "cpu")
    model = whole(NAME, **CHANGES)
    stage = split(model, mesh) if layout.pp > 1 else None
    axis = ProcessAxis(mesh["tp"].get_group())
    parallelize(model, axis, files.read(plan, "plan"), "deferred", "step", sequence_parallel=layout.sequence_parallel)
    state_of(model).mesh = mesh["tp"]
    fully_shard(context_parallel(model, mesh), mesh)
    return mesh, model, stage


def _trained(rank, plan, layout, mean=True):
    mesh, model, stage = _prepared(plan, layout)
    given = batch(model, 1, length=16, samples=8)
    tokens = (given["labels"][:, 1:] != -100).sum()
    own = {key: item.chunk(mesh["dp"].size())[mesh["dp"].get_local_rank()] for key, item in given.items()}
    own = context_part(own, mesh)
    counted = tokens / mesh["dp_cp"].size() if mean else tokens  # FSDP averages
    if stage is None:
        model(**own, num_items_in_batch=counted).loss.backward()
    else:
        Pipeline(stage, mesh, 2).step(own, counted)
    finish_gradients(model)
    unsharded = whole(NAME, **CHANGES)
    unsharded(**given, num_items_in_batch=tokens).loss.backward()
    expected = gradients(unsharded)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    tp, bad, held = mesh["tp"], [], {name for name, _ in model.named_parameters()}
    for part in parts(model):
        gradient = part.tensor.grad
        gradient = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        right = mine(expected[part.name], part, tp.get_local_rank(), tp.size())
        if not (gradient - right).abs().max() <= 1e-6 * largest:
            bad.append(part.name)
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, held)
    return bad, set().union(*everyone) == set(expected)


# In this order: torch keeps flattened meshes of equal shape over process groups that are gone.
LAYOUTS = [
    Layout(pp=2, cp=2, tp=2),
    Layout(pp=2, dp_shard=2, tp=2, sequence_parallel=True),
    Layout(dp_replicate=2, dp_shard=2, tp=2),
    Layout(dp_shard=2, cp=2, tp=2, sequence_parallel=True),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_gradients_on_8_ranks_are_those_of_the_whole_model(ranks, plans, layout):
    assert ranks(_trained, 8, plans(NAME, 2), layout) == [([], True)] * 8


def test_a_loss_that_is_averaged_away_is_seen(ranks, plans):
    bad, _ = ranks(_trained, 8, plans(NAME, 2), LAYOUTS[1], False)[0]
    assert bad


def _sizes(rank, plan, layout):
    """What a rank of many that only pretend holds: its place on the axes, and elements by parameter."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.destroy_process_group()
    found = []
    for one in range(layout.world):
        dist.init_process_group("fake", rank=one, world_size=layout.world, store=FakeStore())
        mesh, model, _ = _prepared(plan, layout)
        place = dict(zip(layout.sizes, mesh.get_coordinate(), strict=True))
        local = {name: (p.to_local() if isinstance(p, DTensor) else p).numel() for name, p in model.named_parameters()}
        found.append((place, local))
        dist.destroy_process_group()
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    return found, {name: p.numel() for name, p in whole(NAME, **CHANGES).named_parameters()}


def test_sizes_on_32_ranks_of_five_axes_add_up_to_the_model(ranks, plans):
    layout = Layout(pp=2, dp_replicate=2, dp_shard=2, cp=2, tp=2, sequence_parallel=True)
    ((found, full),) = ranks(_sizes, 1, plans(NAME, 2), layout)
    assert len(found) == 32
    copies = {}
    for place, local in found:
        for name, size in local.items():
            copies.setdefault(name, {}).setdefault(place["dp_replicate"], []).append((place, size))
    assert set(copies) == set(full)
    for name, by_replica in copies.items():
        cut = full[name] > 1000  # matrices are cut over tp; norms are whole on both its ranks
        for held in by_replica.values():
            assert len({place["pp"] for place, _ in held}) == 1  # one stage has it
            assert sum(size for _, size in held) == full[name] * (1 if cut else layout.tp)
