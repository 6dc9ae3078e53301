"""`tpscope migrate` as a user meets it: one sentence for bad input, exit codes, no partial output."""

import json
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from tpscope.cli import app
from tpscope.errors import UserError
from tpscope.frameworks import overlay, registry

GOOD = "tests/data/migrate/axolotl/lora-tp.yml"


def run(*arguments):
    return CliRunner().invoke(app, ["migrate", *map(str, arguments)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", ":1:"),
        ("base_model: a\nmodel: {_target_: b}\n", "both"),
        ("training: 1\n", "of either framework"),
        ("- 1\n", "mapping"),
        ("a: &a [*a]\nbase_model: b\n", "anchor"),
        ("base_model: a\0\n", "binary"),
        ("", "empty"),
        ("base_model: a\nx: " + "1" * 10_000_000, "bytes"),
        ("base_model: a\nmicro_batch_size: 1\ngradient_accumulation_steps: 1\nlearning_rate: 1e-4\n", "--world"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_output(text, words, tmp_path):
    path, out = tmp_path / "in.yml", tmp_path / "out.yml"
    path.write_text(text)
    done = run(path, "-o", out, "--no-check")
    assert isinstance(done.exception, UserError)
    assert done.exception.exit_code == 2
    assert words in str(done.exception)
    assert "\n" not in str(done.exception)
    assert [item.name for item in tmp_path.iterdir()] == ["in.yml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tests/data"], "directory"),
        ([GOOD, "--source", "nemo@0.7.0", "--world", 2], "--source axolotl@0.19.0"),
        (["nowhere.yml"], "does not exist"),
        ([GOOD, "--to", "axolotl", "--world", 2], "already"),
        ([GOOD, "--to", "torchtitan"], "nemo or axolotl"),
        ([GOOD, "--target", "axolotl@0.19.0", "--world", 2], "--target nemo@0.7.0"),
        ([GOOD, "--world", 3], "multiple of 2"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(arguments, words):
    done = run(*arguments, "--no-check")
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)


@pytest.mark.frameworks
def test_a_version_without_a_feature_is_named(tmp_path):
    """What the input asks for is an error; a default that would be written out is left out, and told."""
    overlay.ensure(registry.parse("nemo@0.2.0"), print)
    asking = tmp_path / "in.yml"
    asking.write_text(Path(GOOD).read_text() + "neftune_noise_alpha: 5.0\n")
    done = run(asking, "--world", 2, "--target", "nemo@0.2.0", "--no-check")
    assert isinstance(done.exception, UserError)
    assert "nemo@0.2.0 has no neftune.noise_alpha: its source" in str(done.exception)
    done = run(GOOD, "--world", 2, "--target", "nemo@0.2.0", "--no-check", "--json", "-")
    tree = json.loads(done.stdout)
    dropped = [field["reason"] for field in tree["fields"] if field["verdict"] == "dropped"]
    assert any("nemo@0.2.0 has no checkpoint.max_recent_checkpoints" in reason for reason in dropped)
    assert "max_recent_checkpoints:" not in tree["output"]


def test_strict_is_exit_code_1_where_something_is_lost(tmp_path):
    assert run(GOOD, "--world", 4, "--no-check", "--strict").exit_code == 1
    assert run(GOOD, "--world", 4, "--no-check").exit_code == 0


def test_an_existing_file_stays_without_force(tmp_path):
    out = tmp_path / "out.yml"
    out.write_text("mine")
    assert isinstance(run(GOOD, "--world", 4, "--no-check", "-o", out).exception, UserError)
    assert out.read_text() == "mine"
    assert run(GOOD, "--world", 4, "--no-check", "-o", out, "--force").exit_code == 0
    assert out.read_text() != "mine"


def test_json_fits_its_schema_and_cites_both_frameworks():
    done = run(GOOD, "--world", 4, "--no-check", "--json", "-")
    tree = json.loads(done.stdout)
    jsonschema.validate(tree, json.loads(Path("docs/schema/migrate.json").read_text()))
    assert tree["schema"] == "tpscope.migrate/1"
    (rank,) = [field for field in tree["fields"] if field["source"] == "lora_r"]
    assert (rank["target"], rank["verdict"]) == ("peft.dim", "renamed")
    assert [line["path"].split("/")[0] for line in rank["evidence"]] == ["axolotl", "nemo_automodel"]


def test_the_yaml_goes_alone_to_standard_output():
    done = run(GOOD, "--world", 4, "--no-check", "-o", "-")
    assert "pretrained_model_name_or_path: meta-llama/Llama-3.1-8B" in done.stdout
    assert "MOVED" not in done.stdout
