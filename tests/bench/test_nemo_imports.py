"""A failed optional import that is kept must not keep what our frames hold."""

import gc
import importlib
import sys
import weakref

import pytest

from tpscope.frameworks.inside.bench import nemo

MODULE = """
try:
    import a_package_that_nobody_has
except ImportError as error:
    KEPT = error
"""


class Model:
    """Something large."""


@pytest.mark.parametrize(("imported", "kept"), [(nemo._imported, False), (importlib.import_module, True)])
def test_a_kept_failure_keeps_no_model_of_ours(tmp_path, monkeypatch, imported, kept):
    name = f"optional_{kept}".lower()
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def step():
        model = Model()
        imported(name)
        return weakref.ref(model)

    model = step()
    gc.collect()
    assert (model() is not None) is kept
    del sys.modules[name]


def test_a_module_that_is_missing_is_still_said():
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        nemo._imported("nowhere_at_all")
