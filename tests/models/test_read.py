"""INPUT in all its forms, and one sentence for every way it can be wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tpscope.errors import UserError
from tpscope.models import hub_cache
from tpscope.models.files import yaml_of
from tpscope.models.read import read
from tpscope.models.spec import Intent

CONFIGS = Path(__file__).parents[1] / "configs"
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_attention_heads": 4}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache, and a function that puts a config into it."""
    root = tmp_path / "hub"
    root.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(root))

    def put(hub_id, config, commit="0123abc", branch="main"):
        folder = root / f"models--{hub_id.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / branch).write_text(commit)
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps(config))
        return snapshot

    return put


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(text, *words, trusted=False):
    with pytest.raises(UserError) as caught:
        read(str(text), trust_remote_code=trusted)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_importing_the_room_imports_nothing_heavy():
    code = (
        "import sys, tpscope.models.read, tpscope.models.shrink;"
        "print([name for name in ('torch', 'transformers', 'ruamel', 'pydantic', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_catalog_name_in_any_case():
    spec, intent = read("QWEN3-8b")
    assert (spec.name, spec.architecture, spec.model_type) == ("qwen3-8b", "Qwen3ForCausalLM", "qwen3")
    assert spec.status == "confirmed"
    assert spec.source.startswith("catalog qwen3-8b (confirmed), from https://")
    assert intent == Intent()


def test_an_unconfirmed_entry_says_so():
    spec, _ = read("smollm3-3b")
    assert spec.status == "unconfirmed"
    assert "(unconfirmed)" in spec.source


def test_a_catalog_name_wins_over_a_directory_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "phi-2").mkdir()
    write(tmp_path / "phi-2", "config.json", json.dumps(LLAMA))
    monkeypatch.chdir(tmp_path)
    assert "./phi-2 reads that" in read("phi-2")[0].notes[-1]
    assert read("./phi-2")[0].model_type == "llama"


@pytest.mark.parametrize("text", ["meta-llama/Llama-3.1-8B", "META-LLAMA/llama-3.1-8b"])
def test_a_hub_id_of_the_catalog_in_any_case(text):
    assert read(text)[0].name == "llama-3.1-8b"


@pytest.mark.parametrize("given", [CONFIGS / "biased-llama", CONFIGS / "biased-llama" / "config.json"])
def test_a_directory_or_its_config_json(given):
    spec, intent = read(str(given))
    assert (spec.name, spec.status, spec.architecture) == ("biased-llama", "local", "LlamaForCausalLM")
    assert spec.config["mlp_bias"] is True
    assert "config.json" in spec.source
    assert intent == Intent()


def test_a_config_json_under_another_name_and_with_a_byte_order_mark(tmp_path):
    path = write(tmp_path, "config.txt", "\ufeff" + json.dumps(LLAMA))
    assert read(str(path))[0].model_type == "llama"


def test_a_model_type_that_no_library_knows_is_for_the_framework_to_refuse():
    assert read(str(CONFIGS / "unknown-type"))[0].model_type == "frobnicator"


def test_a_multi_modal_config_stays_as_it_is(tmp_path):
    raw = {"model_type": "gemma3", "text_config": {"hidden_size": 8}, "vision_config": {"hidden_size": 4}}
    assert read(str(write(tmp_path, "config.json", json.dumps(raw))))[0].config == raw


def test_a_hub_id_from_the_local_cache_in_any_case(cache):
    snapshot = cache("some-Org/Model-7B", LLAMA)
    for text in ("some-Org/Model-7B", "some-org/model-7b"):
        spec, _ = read(text)
        assert spec.config == LLAMA
        assert spec.status == "local"
        assert spec.source == f"Hugging Face cache {snapshot}"
    assert spec.name == "model-7b"


def test_a_hub_id_without_an_organisation(cache):
    cache("gpt2", {"model_type": "gpt2", "n_embd": 64})
    assert read("gpt2")[0].model_type == "gpt2"


def test_a_cached_revision_by_branch_and_by_commit(cache, tmp_path):
    cache("org/model", LLAMA)
    cache("org/model", {**LLAMA, "hidden_size": 128}, commit="fedcba9", branch="v2")
    for revision in ("v2", "fedcba9"):
        text = f"base_model: org/model\nrevision_of_model: {revision}\n"
        assert read(str(write(tmp_path, "a.yml", text)))[0].config["hidden_size"] == 128
    assert hub_cache.snapshot("org/model", "../../../secrets") is None


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [("HF_HUB_CACHE", "/a", "/a"), ("HF_HOME", "/c", "/c/hub"), ("XDG_CACHE_HOME", "/d", "/d/huggingface/hub")],
)
def test_the_cache_is_where_huggingface_hub_looks(monkeypatch, variable, value, expected):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    assert hub_cache.root() == Path(expected)


def test_custom_code_is_read_only_with_the_users_word():
    folder = CONFIGS / "remote-code"
    refused(folder, "configuration_tiny", "does not know model_type tiny_remote", "--trust-remote-code")
    spec, intent = read(str(folder), trust_remote_code=True)
    assert spec.remote_code == folder
    assert intent.trust_remote_code


def test_a_yaml_cannot_give_the_users_word(tmp_path):
    text = f"base_model: {CONFIGS / 'remote-code'}\ntrust_remote_code: true\n"
    path = write(tmp_path, "a.yml", text)
    refused(path, "key base_model", "--trust-remote-code")
    assert read(str(path), trust_remote_code=True)[0].remote_code == CONFIGS / "remote-code"


def test_custom_code_is_left_alone_where_transformers_has_the_model(tmp_path):
    config = {**LLAMA, "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    path = write(tmp_path, "config.json", json.dumps(config))
    spec, _ = read(str(path))
    assert spec.remote_code is None
    assert "transformers has llama itself" in spec.notes[0]
    write(tmp_path, "configuration_own.py", "")
    assert read(str(path), trust_remote_code=True)[0].remote_code == tmp_path


def test_custom_code_that_is_not_there(tmp_path):
    config = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    path = write(tmp_path, "config.json", json.dumps(config))
    refused(
        path, "custom code that is not there (configuration_own.py beside it)", "put the Python files", trusted=True
    )


def test_custom_code_of_another_repository_comes_from_the_cache(cache, tmp_path):
    snapshot = cache("org/code", {"model_type": "own"})
    config = {"model_type": "own", "auto_map": {"AutoConfig": "org/code--configuration_own.OwnConfig"}}
    path = write(tmp_path, "config.json", json.dumps(config))
    refused(path, "configuration_own.py of org/code", trusted=True)
    write(snapshot, "configuration_own.py", "")
    assert read(str(path), trust_remote_code=True)[0].remote_code == snapshot


def test_unknown_names_and_ids(cache):
    refused("llama-3.1-8", "no catalog name", "closest names are llama-3.1-8b")
    refused("zzzzzz", "no catalog name", "the catalog has command-r, ")
    refused(
        "nobody/nothing",
        "neither in the catalog nor in the Hugging Face cache",
        "hf download nobody/nothing config.json",
    )
    refused("Qwen/Qwen3-9B", "take the like of it from the catalog: qwen3-")
    refused("  ", "INPUT is empty")
    refused("a/b/c", "no catalog name, path that exists or hub id")
    refused("x" * 5000, "no path that can be looked up (File name too long)")
    refused("./nowhere.yaml", "./nowhere.yaml does not exist; check the path")


def test_an_incomplete_cache_is_no_answer(cache):
    (cache("org/model", LLAMA) / "config.json").unlink()
    refused("org/model", "neither in the catalog nor in the Hugging Face cache")


def test_files_that_are_none(tmp_path, monkeypatch):
    refused(CONFIGS / "malformed", "malformed/config.json:6:3", "not valid JSON", "delimiter", "correct it there")
    refused(write(tmp_path, "empty.yaml", " \n"), "empty.yaml is empty")
    refused(write(tmp_path, "comments.yaml", "# nothing\n"), "holds nothing but comments")
    refused(write(tmp_path, "config.json", "[1]"), "holds a JSON list where an object is expected")
    refused(write(tmp_path, "list.yaml", "- a\n"), "holds a YAML list where a mapping is expected")
    refused(write(tmp_path, "string.yaml", "word\n"), "holds a YAML string")
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    refused(tmp_path / "model.safetensors", "is a binary file")
    (tmp_path / "latin.yaml").write_bytes("base_model: Müller".encode("latin-1"))
    refused(tmp_path / "latin.yaml", "is not UTF-8 text (byte 13 is 0xfc)")
    refused(write(tmp_path, "big.yaml", "a: " + "x" * 5_000_001), "5,000,004 bytes", "5,000,000")
    refused("/dev/null", "no regular file")
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    refused(CONFIGS / "biased-llama", "cannot be read (Permission denied)", "make it readable")


def test_directories_that_are_none(tmp_path):
    refused(tmp_path, "is a directory without config.json", "give the directory that a model was saved to")
    write(tmp_path, "run.yml", "base_model: phi-2")
    refused(tmp_path, "name a file in it, such as run.yml")
    write(tmp_path, "adapter_config.json", "{}")
    refused(tmp_path, "PEFT adapter", "base model")
    (tmp_path / "config.json").mkdir()
    refused(tmp_path, "config.json is a directory where a file is expected")


def test_a_config_without_model_type(tmp_path):
    refused(write(tmp_path, "config.json", '{"hidden_size": 64}'), "no model_type", "add model_type to it")


def test_a_yaml_of_neither_framework_and_of_both(tmp_path):
    path = write(tmp_path, "a.yaml", "model_name_or_path: x\nper_device_train_batch_size: 1\n")
    refused(
        path, "no training YAML of either framework", "base_model", "_target_", "this one has model_name_or_path, per_"
    )
    both = "base_model: x\nmodel: {pretrained_model_name_or_path: y}\n"
    refused(write(tmp_path, "b.yaml", both), "both Axolotl's base_model and a NeMo recipe's model")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base_model: [x\n", ("a.yaml:2:1", "not valid YAML")),
        ("base_model: x\n\t- y\n", ("a.yaml:2:1", "not valid YAML")),
        ("base_model: *nowhere\n", ("a.yaml:1:13", "undefined alias")),
        ("base_model: !!python/object:os.system x\n", ("a.yaml:1:13", "could not determine a constructor")),
        ("base_model: !!bool maybe\n", ("does not fit the tag",)),
        ("a: 1\n---\nb: 2\n", ("a.yaml:2:1", "expected a single document")),
        ("base_model: \x07\n", ("not valid YAML", "special characters")),
        ("a: " + "[" * 3000, ("nested too deeply",)),
        ("a: 2001-15-40\n", ("not valid YAML", "month must be in 1..12")),
        ("base_model: x\nloop: &loop\n  again: *loop\n", ("anchor that contains itself", "take the alias out")),
    ],
)
def test_yaml_that_is_none(tmp_path, text, words):
    refused(write(tmp_path, "a.yaml", text), *words)


def test_anchors_that_unfold_to_millions_of_values(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 7)]
    refused(write(tmp_path, "a.yaml", "\n".join([*lines, "base_model: x"])), "unfolds to", "through its anchors")


@pytest.mark.parametrize("text", ["{}", '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_json_at_its_limits(tmp_path, text):
    refused(write(tmp_path, "config.json", text), "config.json", "give ")


def test_a_model_that_a_yaml_names_in_vain(cache, tmp_path):
    path = write(tmp_path, "a.yml", "base_model: nobody/nothing\n")
    refused(path, f"{path}, key base_model: nobody/nothing is neither in the catalog")
    refused(
        write(tmp_path, "b.yml", "base_model: llama-3.1-8b\n"), "no framework loads", "write meta-llama/Llama-3.1-8B"
    )
    recipe = "model:\n  config:\n    pretrained_model_name_or_path: no/thing\n"
    refused(write(tmp_path, "c.yml", recipe), "key model.config.pretrained_model_name_or_path: no/thing is neither")


def test_yaml_is_read_as_pyyaml_reads_it(tmp_path):
    path = write(tmp_path, "a.yaml", "a: yes\nb: off\nc: 010\nd: 1\nd: 2\ne: &x 1\nf: &x 2\ng: *x\n")
    document = yaml_of(path)
    assert document.data == {"a": True, "b": False, "c": 8, "d": 2, "e": 1, "f": 2, "g": 2}
    assert document.repeated == ("d (line 5)",)
