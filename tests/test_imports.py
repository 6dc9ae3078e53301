"""The house keeps its shape: imports point down, the parent stays light, inside code imports nothing of ours."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tpscope

SOURCE = Path(tpscope.__file__).parent
# A room may import the rooms after it, never those before it.
ROOMS = (
    "cli", "cli_check", "cli_migrate", "cli_recommend", "cli_report", "cli_prove", "cli_price", "cli_plan", "training",
    "report", "render", "migrate", "bench", "recommend", "check", "prove", "price", "compare", "plan",
    "frameworks", "engine", "models", "bugs", "language", "errors",
)  # fmt: skip
MODULES = sorted(SOURCE.rglob("*.py"))


def _room(name: str) -> str:
    return name.removeprefix("tpscope.").split(".")[0]


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    here = path.relative_to(SOURCE).with_suffix("").parts[0]
    if here not in ROOMS:
        assert path.name == "__init__.py"
        return
    for module in _imports(path):
        if module.startswith("tpscope.") and _room(module) in ROOMS:
            assert ROOMS.index(_room(module)) >= ROOMS.index(here), f"{path} imports {module}: an arrow upward"


def test_an_arrow_upward_would_be_seen(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from tpscope.cli import main\n")
    assert ROOMS.index(_room(_imports(bad)[0])) < ROOMS.index("language")


INSIDE = [
    path
    for folder in ("", "experiments", "price", "bench")
    for path in sorted((SOURCE / "frameworks/inside" / folder).glob("*.py"))
]


@pytest.mark.parametrize("path", INSIDE, ids=lambda path: path.name)
def test_inside_imports_only_torch_the_framework_and_the_language(path):
    allowed = {"torch", "transformers", "accelerate", "peft", "nemo_automodel", "axolotl"} | set(
        sys.stdlib_module_names
    )
    for module in _imports(path):
        if module.startswith("tpscope"):
            assert module.startswith(("tpscope.frameworks.inside", "tpscope.language")), module
        else:
            assert module.split(".")[0] in allowed, module


@pytest.mark.parametrize("path", sorted((SOURCE / "language").rglob("*.py")), ids=lambda path: path.name)
def test_the_language_is_standard_library_only(path):
    for module in _imports(path):
        assert module.startswith("tpscope.language") or module.split(".")[0] in sys.stdlib_module_names, module


def test_the_parent_imports_nothing_heavy():
    code = (
        "import sys, tpscope.cli, tpscope.compare.ask, tpscope.plan.run, tpscope.plan.formats;"
        "print(*(name in sys.modules for name in ('torch', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
