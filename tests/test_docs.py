"""The documents show real, current output, and every command is documented.

`python tests/test_docs.py` writes the output of every `$ tpscope ...` block anew.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tpscope.cli import app
from tpscope.render import document

PAGES = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
BLOCK = re.compile(r"```console\n\$ tpscope (?P<arguments>[^\n]*)\n(?P<output>.*?)```", re.S)
BLOCKS = [(path, match["arguments"], match["output"]) for path in PAGES for match in BLOCK.finditer(path.read_text())]


def real(arguments):
    """What a command prints in a terminal of 100 columns."""
    command = [str(Path(sys.executable).with_name("tpscope")), *arguments.split()]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "100"}, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


@pytest.mark.frameworks
@pytest.mark.xdist_group("columns")
@pytest.mark.parametrize(("path", "arguments", "output"), BLOCKS, ids=[f"{path}:{text}" for path, text, _ in BLOCKS])
def test_a_page_shows_what_the_command_prints(path, arguments, output):
    assert output == real(arguments), f"{path} is stale: run python tests/test_docs.py"


def test_there_is_output_to_check():
    assert any(path == Path("README.md") for path, _, _ in BLOCKS)


def commands(group, prefix="tpscope"):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


@pytest.mark.parametrize(("name", "command"), list(commands(typer.main.get_command(app))), ids=lambda item: str(item))
def test_every_command_and_flag_is_documented(name, command):
    text = "".join(path.read_text() for path in PAGES)
    *group, verb = name.split()
    assert name in text or (" ".join(group) in text and f"`{verb}`" in text), name
    for parameter in command.params:
        for flag in parameter.opts:
            if flag.startswith("--") and flag not in ("--help", "--fresh", "--sequence-parallel"):
                assert flag in text, f"{name} {flag}"


def test_the_schema_on_disk_is_the_one_of_the_code():
    for name in document.RESULTS:
        assert Path(f"docs/schema/{name}.json").read_text() == document.schema(name), name


def test_readme_is_one_page():
    prose = BLOCK.sub("", Path("README.md").read_text())
    assert len(prose.splitlines()) < 60


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text()
        page.write_text(BLOCK.sub(lambda m: f"```console\n$ tpscope {m['arguments']}\n{real(m['arguments'])}```", text))
    for name in document.RESULTS:
        Path(f"docs/schema/{name}.json").write_text(document.schema(name))
