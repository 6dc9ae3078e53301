"""LoRA's dropout: its place in the file is the one that is checked, and each place has its own answer."""

import pytest

from tpscope.check.ask import Asked
from tpscope.check.run import check
from tpscope.language.verdict import Verdict

pytestmark = [pytest.mark.frameworks, pytest.mark.xdist_group("check")]
FILE = """\
recipe: TrainFinetuneRecipeForNextTokenPrediction
model:
  _target_: nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained
  pretrained_model_name_or_path: Qwen/Qwen2.5-7B
peft:
  _target_: nemo_automodel.components._peft.lora.PeftConfig
  match_all_linear: true
  dim: 8
  alpha: 32
  dropout: {dropout}
  dropout_position: {position}
distributed: {{strategy: fsdp2, tp_size: 2}}
step_scheduler: {{global_batch_size: 4, local_batch_size: 4, max_steps: 100}}
loss_fn:
  _target_: nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy
optimizer:
  _target_: torch.optim.AdamW
  lr: 1.0e-5
  {overrides}: [{{pattern: router, lr_mult: 0.1}}]
dataset:
  _target_: nemo_automodel.components.datasets.llm.mock_iterable_dataset.MockIterableDataset
  vocab_size: 1024
  seq_len: 512
  num_samples: 1000
"""


def checked(folder, prove=True, **values):
    file = folder / "mine.yaml"
    file.write_text(FILE.format(**{"dropout": 0.1, "position": "pre", "overrides": "param_group_overrides", **values}))
    return check(Asked(file, 2, "nemo@0.7.0", prove=prove))


@pytest.mark.sweep
def test_dropout_before_a_draws_masks_apart_and_without_dropout_it_is_equal(tmp_path):
    found = checked(tmp_path)
    assert found.verdict is Verdict.DIFFERENT
    assert any("draw other masks on each rank" in item.why for item in found.findings)
    assert checked(tmp_path, dropout=0.0).verdict is Verdict.EQUAL


def test_dropout_after_b_stops_and_the_other_place_is_tried_as_a_remedy(tmp_path):
    found = checked(tmp_path, prove=False, position="post")
    assert any("bernoulli_" in item.why and "dropout_position: pre" in item.remedy for item in found.findings)


def test_a_key_that_nemos_optimizer_takes_for_itself_is_known_and_a_misspelt_one_is_not(tmp_path):
    keys = [item.key for item in checked(tmp_path, prove=False).findings]
    assert "optimizer.param_group_overrides" not in keys
    found = checked(tmp_path, prove=False, overrides="param_group_override")
    (item,) = (item for item in found.findings if item.key == "optimizer.param_group_override")
    assert "param_group_overrides" in item.remedy
