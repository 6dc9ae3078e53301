"""Overlays are whole or absent, closed, and made once."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tpscope.errors import UserError
from tpscope.frameworks import base, overlay, registry
from tpscope.frameworks.runner import Worker, overlay_environment

TARGETS = [f"{family.name}@{version}" for family in registry.families().values() for version in family.versions]


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TPSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_index_out_of_reach_is_one_sentence_and_leaves_nothing(empty_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("TPSCOPE_WHEELS", str(tmp_path / "no-wheels"))
    (tmp_path / "no-wheels").mkdir()
    target = registry.parse("nemo@0.7.0")
    with pytest.raises(UserError, match=r"could not install nemo@0\.7\.0: .*; nothing was left behind") as caught:
        overlay.ensure(target, lambda text: None)
    assert "\n" not in str(caught.value)
    assert overlay.installed(target) is None
    assert [path.name for path in overlay.overlays_root().iterdir() if path.is_dir()] == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(empty_cache, monkeypatch):
    def full(target, partial, say):
        partial.mkdir(parents=True)
        (partial / "half").write_text("half a package")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(overlay, "_fill", full)
    target = registry.parse("nemo@0.7.0")
    with pytest.raises(UserError, match="No space left on device"):
        overlay.ensure(target, lambda text: None)
    assert overlay.installed(target) is None
    assert [path for path in overlay.overlays_root().iterdir() if path.is_dir()] == []


def test_what_a_killed_install_left_is_no_overlay_and_is_swept_away(empty_cache, monkeypatch):
    target = registry.parse("nemo@0.7.0")
    path = overlay.overlay_path(target)
    stale = path.parent / f".{path.name}.12345"
    stale.mkdir(parents=True)
    (stale / "half").write_text("half a package")
    assert overlay.installed(target) is None

    def fill(target, partial, say):
        partial.mkdir()
        (partial / overlay.MANIFEST).write_text(json.dumps({"id": target.id, "packages": {}, "declared": {}}))

    monkeypatch.setattr(overlay, "_fill", fill)
    assert overlay.ensure(target, lambda text: None).path == path
    assert not stale.exists()


def test_two_installs_at_once_do_the_work_once(empty_cache, tmp_path):
    counter = tmp_path / "count"
    code = f"""
import json, time
from pathlib import Path
from tpscope.frameworks import overlay, registry
def fill(target, partial, say):
    with open({str(counter)!r}, "a") as file:
        file.write("x")
    partial.mkdir()
    time.sleep(0.5)
    (partial / overlay.MANIFEST).write_text(json.dumps({{"id": target.id, "packages": {{}}, "declared": {{}}}}))
overlay._fill = fill
print(overlay.ensure(registry.parse("nemo@0.7.0"), lambda text: None).path)
"""
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {run.communicate(timeout=60)[0].strip() for run in runs}
    assert len(outputs) == 1
    assert counter.read_text() == "x"


def test_the_base_holds_torch_and_what_torch_needs_and_nothing_else():
    names = {path.name.split("-")[0].lower() for path in base.base_path().iterdir()}
    assert {"torch", "sympy", "jinja2"} <= names
    assert not names & {"transformers", "pydantic", "typer", "rich", "tpscope", "numpy", "uv"}


@pytest.mark.frameworks
@pytest.mark.parametrize("name", TARGETS)
def test_every_overlay_imports_with_everything_else_hidden(name):
    target = registry.parse(name)
    environment = overlay_environment(overlay.ensure(target, lambda text: None))
    inside = Path(overlay.__file__).parent / "inside"
    code = f"""
import importlib, json, runpy, sys
sys.path.insert(0, {str(inside)!r})
runpy.run_path({str(inside / "__main__.py")!r}, run_name="not main")["_mount"]()
problem = importlib.import_module("tpscope.frameworks.inside.case").preload({target.family.name!r})
files = [str(getattr(module, "__file__", "")) for module in sys.modules.values()]
print(json.dumps([problem, [file for file in files if "site-packages" in file]]), file=sys.__stdout__)
"""
    path = os.pathsep.join(map(str, environment.path))
    done = subprocess.run(
        [str(environment.python), "-W", "ignore", "-S", "-c", code],
        capture_output=True, text=True, timeout=300, check=True,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": path},
    )  # fmt: skip
    problem, outside = json.loads(done.stdout.splitlines()[-1])
    assert problem is None
    assert outside == []


@pytest.mark.frameworks
def test_a_worker_that_is_killed_is_an_answer():
    target = registry.parse("transformers@5.23.0")
    worker = Worker(target, overlay_environment(overlay.ensure(target, lambda text: None)))
    try:
        os.kill(worker._server.pid, signal.SIGKILL)
        from tpscope.language.answer import Request
        from tpscope.language.layout import Layout

        answer = worker.ask(
            Request(target.id, target.version, "", "x", {"model_type": "llama"}, Layout(tp=2)), seconds=5
        )
        assert answer.status == "crashed"
        assert answer.error.kind == "ProcessDied"
    finally:
        worker.close()
