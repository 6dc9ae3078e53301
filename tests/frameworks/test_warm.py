"""Readers that stay: one is started and used again, a dead one is replaced, and none stays where none may."""

import json
import os
import signal
from pathlib import Path

import pytest

from tpscope.frameworks import overlay, registry, warm
from tpscope.frameworks.runner import overlay_environment
from tpscope.language.answer import to_json
from tpscope.language.keys import KeysRequest

TARGET = registry.parse("axolotl@0.19.0")
DATA = {"base_model": "a/b", "datasets": [{"path": "c/d", "type": "alpaca"}], "micro_batch_size": 1,
        "gradient_accumulation_steps": 1, "learning_rate": 1e-4, "optimizer": "adamw_torch"}  # fmt: skip
pytestmark = [pytest.mark.frameworks, pytest.mark.xdist_group("migrate")]


@pytest.fixture(scope="module")
def environment():
    return overlay_environment(overlay.ensure(TARGET, print))


def read(folder, environment, **changes):
    """The answer to one file."""
    request = KeysRequest(TARGET.id, {**DATA, **changes}, {}, 1, [str(root) for root in environment.roots])
    order = {name: str(folder / name) for name in ("request", "answer", "log")}
    (folder / "request").write_text(json.dumps(to_json(request)))
    assert warm.read(TARGET, environment, order, 240) == 0
    return json.loads((folder / "answer").read_text())


def reader(environment):
    """The process that answers, by its fork's parent."""
    with warm.ready(TARGET, environment) as line, line.makefile() as words:
        status = Path(f"/proc/{int(words.readline())}/status").read_text()
    return int(next(row for row in status.splitlines() if row.startswith("PPid")).split()[1])


def test_the_second_file_finds_the_framework_imported(tmp_path, environment):
    read(tmp_path, environment)
    before = reader(environment)
    answer = read(tmp_path, environment, tensor_paralel_size=2)
    assert [item["key"] for item in answer["findings"] if item["kind"] == "unknown"] == ["tensor_paralel_size"]
    assert reader(environment) == before


def test_one_file_leaves_nothing_for_the_next(tmp_path, environment):
    assert read(tmp_path, environment, plugins=["axolotl.integrations.liger.LigerPlugin"])["error"] is None
    answer = read(tmp_path, environment, liger_rope=True)
    assert any(item["key"] == "liger_rope" and item["kind"] == "unknown" for item in answer["findings"])


def test_a_reader_that_died_is_replaced(tmp_path, environment):
    before = reader(environment)
    os.kill(before, signal.SIGKILL)
    assert read(tmp_path, environment)["error"] is None
    assert reader(environment) != before


def test_with_no_seconds_nothing_stays_and_the_answer_is_the_same(tmp_path, environment, monkeypatch):
    kept = read(tmp_path, environment)
    monkeypatch.setenv("TPSCOPE_WARM_SECONDS", "0")
    assert warm.ready(TARGET, environment) is None
    alone = read(tmp_path, environment)
    assert {**alone, "seconds": 0} == {**kept, "seconds": 0}


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path, environment, monkeypatch):
    monkeypatch.setattr(warm.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"tpscope-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"tpscope-{os.getuid()}").chmod(0o777)
    assert warm.ready(TARGET, environment) is None


def test_a_framework_that_is_not_there_is_an_answer(tmp_path, environment, monkeypatch):
    broken = type(environment)(environment.python, environment.path[1:], environment.roots, "broken", {})
    monkeypatch.setenv("TPSCOPE_WARM_SECONDS", "5")
    request = KeysRequest(TARGET.id, DATA, {}, 1, [])
    order = {name: str(tmp_path / name) for name in ("request", "answer", "log")}
    (tmp_path / "request").write_text(json.dumps(to_json(request)))
    warm.read(TARGET, broken, order, 240)
    assert json.loads((tmp_path / "answer").read_text())["error"]["kind"] == "ImportError"
