"""Pipeline stages with tensor parallelism inside: losses, gradients and their norm are those of the whole model."""

import pytest
import torch
import torch.distributed as dist
from subjects import batch, gradients, mine, whole

from tpscope.engine.collectives import ProcessAxis
from tpscope.engine.gradients import clip_grad_norm_
from tpscope.engine.held import parts
from tpscope.engine.mesh import build_mesh
from tpscope.engine.parallelize import parallelize
from tpscope.engine.pipeline import Pipeline, split
from tpscope.errors import UserError
from tpscope.language.layout import Layout
from tpscope.plan import files

pytestmark = pytest.mark.filterwarnings("ignore")


def _stages(rank, plan, name, layout):
    mesh = build_mesh(layout, "cpu")
    changes = {"num_hidden_layers": 3, "layer_types": None}
    model, unsharded = whole(name, **changes), whole(name, **changes)
    stage = split(model, mesh)
    axis = ProcessAxis(mesh["tp"].get_group())
    parallelize(model, axis, files.read(plan, "plan"), "deferred", "step", sequence_parallel=layout.sequence_parallel)
    given = batch(model, 1, samples=4)
    tokens = (given["labels"][:, 1:] != -100).sum()
    # Of two micro-batches' steps the gradients add up.
    pipeline, value = Pipeline(stage, mesh, 2), 0
    for half in (slice(2), slice(2, 4)):
        part = pipeline.step({key: item[half] for key, item in given.items()}, tokens)
        value = None if part is None else value + part
    norm = clip_grad_norm_(model, 1e9, (mesh["pp"].get_group(),))
    wanted = unsharded(**given, num_items_in_batch=tokens).loss
    wanted.backward()
    total = torch.nn.utils.clip_grad_norm_(unsharded.parameters(), 1e9)
    held = {n for n, _ in model.named_parameters()}
    expected = {n: g for n, g in gradients(unsharded).items() if n in held}
    found = gradients(model)
    bad = [
        part.name
        for part in parts(model)
        if part.name not in found
        or (found[part.name] - mine(expected[part.name], part, axis.rank, axis.size)).abs().max() > 1e-6 * float(total)
    ]
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, held)
    complete = set().union(*everyone) == {n for n, _ in unsharded.named_parameters()}
    return bad, value is None or float(value / wanted - 1), float(norm - total), complete, value is not None


@pytest.mark.parametrize("name", ["qwen3-8b", "phi-3-mini", "qwen3-0.6b", "command-r"])  # two are tied, one scales
@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["", "sequence parallel"])
def test_two_stages_of_two_ranks(ranks, plans, name, sequence_parallel):
    layout = Layout(pp=2, tp=2, sequence_parallel=sequence_parallel)
    found = ranks(_stages, 4, plans(name, 2), name, layout)
    for bad, difference, norm, complete, _ in found:
        assert bad == []
        # Models take their loss in float32: four sums of halves, each rounded.
        assert difference is True or abs(difference) < 4 * 2**-23
        assert abs(norm) < 1e-6
        assert complete
    assert [last for *_, last in found] == [False, False, True, True]


def _apart(rank, plan, layout):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "_add_up", lambda *_: None)
        return _stages(rank, plan, "qwen3-0.6b", layout)[0]


def test_parts_of_a_tied_weight_that_are_not_added_up_are_seen(ranks, plans):
    found = ranks(_apart, 4, plans("qwen3-0.6b", 2), Layout(pp=2, tp=2))
    assert found == [["model.embed_tokens.weight"]] * 4


def _refused(rank):
    model = whole("qwen3-0.6b", num_hidden_layers=1, layer_types=None)
    before = {name for name, _ in model.named_parameters()}
    with pytest.raises(UserError, match="no list of at least 2 layers"):
        split(model, build_mesh(Layout(pp=2), "cpu"))
    return before == {name for name, _ in model.named_parameters()}


def test_fewer_layers_than_stages_are_refused(ranks):
    assert ranks(_refused, 2) == [True, True]
