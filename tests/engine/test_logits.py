"""The loss without logits: the model's own code, the same value and gradient, and full logits only for who looks."""

import pytest
import torch
from subjects import batch, gradients, sharded, whole, wrong

from tpscope.engine import logits as module
from tpscope.engine.gradients import finish_gradients
from tpscope.engine.logits import Logits

pytestmark = pytest.mark.filterwarnings("ignore")
chunk_of = module._chunk
RAGGED = {"vocab_size": 301}


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor that any operation makes, in elements of the last two dimensions' product."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for item in found if isinstance(found, tuple | list) else [found]:
            if isinstance(item, torch.Tensor):
                self.shapes.add(tuple(item.shape))
        return found


def _loss(rank, plan, name, changes, options, chunk):
    """Rank processes serve other tests afterwards, in which every rank must have chunks of one size."""
    chunks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_ELEMENTS", chunk)
        patch.setattr(module, "_chunk", lambda logits, *more: chunks.append(len(logits)) or chunk_of(logits, *more))
        return _compared(rank, plan, name, changes, options, chunks)


def _compared(rank, plan, name, changes, options, chunks):
    model, unsharded = sharded(name, plan, changes), whole(name, **changes)
    given = batch(model, 2)
    given["labels"][given["labels"] == -100] = options.get("ignore_index", -100)
    with Largest() as seen:
        loss = model(**given, **options).loss
        loss.backward()
    finish_gradients(model)
    wanted = unsharded(**given, **options).loss
    wanted.backward()
    vocabulary = model.config.vocab_size
    full = [shape for shape in seen.shapes if shape[-1:] == (vocabulary,) and torch.Size(shape).numel() > vocabulary]
    # The model's own loss is in float32.
    return float(loss), float(wanted), wrong(model, gradients(unsharded), rank, close=1e-6), full, chunks


@pytest.mark.parametrize(
    ("name", "changes", "options"),
    [
        ("qwen3-0.6b", {}, {}),  # tied
        ("qwen3-8b", {}, {"num_items_in_batch": 17}),
        ("qwen3-8b", RAGGED, {}),
        ("qwen3-0.6b", RAGGED, {"ignore_index": 5}),
        ("gemma-2-9b", {}, {}),  # softcap
    ],
    ids=["tied", "num_items_in_batch", "odd vocabulary", "tied, odd, ignore_index", "softcap"],
)
def test_the_models_own_loss_has_the_same_value_and_gradients(ranks, plans, name, changes, options):
    for loss, wanted, names, full, chunks in ranks(_loss, 2, plans(name, 2), name, changes, options, 1500):
        assert loss == pytest.approx(wanted, rel=1e-6)
        assert names == []
        assert full == []  # no tensor of all tokens, or of some, by the whole vocabulary
        assert len(chunks) > 2  # nor of all tokens by a rank's slice


def _looked(rank, plan):
    model, unsharded = sharded("qwen3-8b", plan), whole("qwen3-8b")
    given = batch(model, 1)
    found, wanted = model(**given).logits, unsharded(**given).logits
    kind = type(found)
    with torch.no_grad():
        evaluated = model(**given).logits
    smooth = torch.nn.functional.cross_entropy(
        found.view(-1, found.shape[-1]), given["labels"].view(-1), label_smoothing=0.1
    )
    expected = torch.nn.functional.cross_entropy(
        wanted.view(-1, wanted.shape[-1]), given["labels"].view(-1), label_smoothing=0.1
    )
    smooth.backward()
    finish_gradients(model)
    expected.backward()
    return (
        kind is Logits,
        type(evaluated) is torch.Tensor and torch.allclose(evaluated, wanted),
        tuple(found.shape) == tuple(wanted.shape) and found.dtype == wanted.dtype,
        torch.allclose(found[:, -1].argmax(-1).double(), wanted[:, -1].argmax(-1).double()),
        torch.allclose(found + 0, wanted),
        abs(float(smooth - expected)) < 1e-9,
        wrong(model, gradients(unsharded), rank) == [],
    )


def test_who_looks_at_logits_gets_them_whole(ranks, plans):
    for found in ranks(_looked, 2, plans("qwen3-8b", 2)):
        assert all(found), found
