"""One function a verb: parse, call one function, render."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tpscope import __version__, cli_check, cli_migrate, cli_plan, cli_price, cli_prove, cli_recommend, cli_report
from tpscope.cli_prove import DEFAULT
from tpscope.errors import UserError
from tpscope.render.status import Status

app = typer.Typer(
    help="Tensor parallelism of large models: what each framework really does with yours, from its own running code.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
frameworks_app = typer.Typer(help="The framework versions that tpscope runs.", no_args_is_help=True)
app.add_typer(frameworks_app, name="frameworks")


def main() -> None:
    """Entry point. A user's mistake is one sentence on standard error and an exit code; a traceback only by --debug."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app(standalone_mode=True)
    except UserError as error:
        if debug:
            raise
        Console(stderr=True, soft_wrap=True).print(f"[bold red]tpscope:[/] {escape(str(error))}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        Console(stderr=True).print("tpscope: interrupted")
        os._exit(130)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Tensor parallelism of large models: what each framework really does with yours."""
    if show:
        typer.echo(f"tpscope {__version__}")
        raise typer.Exit


class Progress(Status):
    """What is going on, on standard error: a live line in a terminal, plain lines for installs elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._running: list[str] = []

    def __call__(self, kind: str, text: str) -> None:
        """Take one event: `install`, `run`, `done`."""
        with self._lock:
            self.say(kind, text)
            if kind == "run":
                self._running.append(text)
            elif text in self._running:
                self._running.remove(text)
            self.line(f"running {', '.join(self._running)}" if self._running else "")


@app.command()
def compare(
    model: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A catalog name, a directory, a config.json, a hub id in the local cache, an Axolotl or a NeMo YAML.",
        ),
    ],
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="A framework: nemo@0.7.0, nemo@0.7.0+hf, axolotl@0.19.0, nemo@./checkout, installed. Repeat it.",
        ),
    ] = None,
    tp: Annotated[int | None, typer.Option(min=1, help="Tensor-parallel ranks.")] = None,
    pp: Annotated[int | None, typer.Option(min=1, help="Pipeline stages.")] = None,
    dp_shard: Annotated[int | None, typer.Option(min=1, help="Ranks that share one sharded copy (FSDP).")] = None,
    dp_replicate: Annotated[int | None, typer.Option(min=1, help="Copies of the sharded model (HSDP).")] = None,
    cp: Annotated[int | None, typer.Option(min=1, help="Context-parallel ranks.")] = None,
    world: Annotated[int | None, typer.Option(min=1, help="Ranks in all; the layout must multiply to it.")] = None,
    sequence_parallel: Annotated[
        bool | None,
        typer.Option(
            "--sequence-parallel/--no-sequence-parallel", help="Shard activations over the sequence between TP regions."
        ),
    ] = None,
    lora: Annotated[
        str | None, typer.Option(help="LoRA, as in r=16,targets=all-linear or r=8,targets=q_proj+v_proj.")
    ] = None,
    custom_plan: Annotated[
        str | None, typer.Option(help="A plan of your own: path.py:name of a dict or a function.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the model's own Python code.")
    ] = False,
    python: Annotated[Path | None, typer.Option(help="Interpreter of your own environment, run unmodified.")] = None,
    json_: Annotated[
        str | None, typer.Option("--json", help="Write the answer as JSON (- for standard output).")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page.")] = None,
    markdown: Annotated[str | None, typer.Option(help="Write the answer as Markdown (- for standard output).")] = None,
    why: Annotated[
        str | None, typer.Option(help="Show rules and executed lines for parameters that match a pattern.")
    ] = None,
    evidence: Annotated[bool, typer.Option("--evidence", help="Show every executed line behind the choice.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what an earlier run has answered.")] = False,
) -> None:
    """Show side by side what each framework does with a model: plan, level, lines, placements, mesh, refusals."""
    from tpscope.compare.ask import Wishes, question
    from tpscope.compare.run import Pool
    from tpscope.compare.run import compare as run
    from tpscope.frameworks.targets import resolve
    from tpscope.render import document, terminal

    wishes = Wishes(tp, pp, dp_shard, dp_replicate, cp, world, sequence_parallel, lora, custom_plan, trust_remote_code)
    asked = question(model, wishes)
    targets = resolve(with_ or ([] if python else list(DEFAULT)), python)
    with Progress() as progress, Pool(progress, fresh=fresh) as pool:
        result = run(asked, targets, pool)
    files: dict[str, str] = {}
    if markdown:
        from tpscope.render import markdown as pages

        files[markdown] = pages.page(result)
    if html:
        from tpscope.render.html import page

        files[str(html)] = page(result)
    document.deliver(result, json_, lambda console: terminal.show(result, console, why, evidence), files)


@app.command()
def models() -> None:
    """List the catalog: published configurations by the names that INPUT takes."""
    from tpscope.models import catalog

    table = Table(box=None, header_style="bold")
    for head in ("name", "architecture", "configuration", "first hub id"):
        table.add_column(head)
    for name in catalog.names():
        entry = catalog.entry(name)
        spec = entry.spec()
        table.add_row(name, spec.architecture, spec.status, entry.hub_ids[0] if entry.hub_ids else "")
    Console().print(table)


@frameworks_app.command("list")
def list_frameworks() -> None:
    """List frameworks, the versions that tpscope knows best, and what is installed."""
    from tpscope.frameworks import overlay, registry

    table = Table(box=None, header_style="bold")
    for head in ("framework", "version", "installed", "what it is"):
        table.add_column(head)
    have = {manifest["id"] for _, manifest in overlay.all_installed()}
    for family in registry.families().values():
        for number in family.versions:
            name = f"{family.name}@{number}"
            table.add_row(family.name, number, "yes" if name in have else "no", family.title)
            have.discard(name)
    for name in sorted(have):
        table.add_row(name.partition("@")[0], name.partition("@")[2], "yes", "")
    Console().print(table)


@frameworks_app.command()
def install(names: Annotated[list[str], typer.Argument(help="Such as nemo@0.7.0; several at once.")]) -> None:
    """Install overlays: a framework at a version with the packages that it asks for, apart from everything else."""
    from tpscope.frameworks import overlay, registry

    with Progress() as progress:
        for name in names:
            found = overlay.ensure(registry.parse(name), lambda text: progress("install", text))
            Console().print(f"{name}: {len(found.packages)} packages in {found.path}", highlight=False, soft_wrap=True)


@frameworks_app.command()
def show(name: Annotated[str, typer.Argument(help="Such as nemo@0.7.0.")]) -> None:
    """Show where an overlay is and what it holds, with what the framework declares."""
    from tpscope.frameworks import overlay, registry

    target = registry.parse(name)
    found = overlay.installed(target)
    if found is None:
        raise UserError(f"{name} is not installed; run: tpscope frameworks install {name}")
    table = Table(box=None, header_style="bold")
    for head in ("package", "version", f"declared by {name}"):
        table.add_column(head)
    for package, number in sorted(found.packages.items()):
        table.add_row(package, number, found.declared.get(package, ""))
    table.add_row("torch", "from the base", found.declared.get("torch", ""))
    console = Console()
    console.print(str(found.path), highlight=False, soft_wrap=True)
    console.print(table)


@frameworks_app.command()
def remove(names: Annotated[list[str], typer.Argument(help="Such as nemo@0.7.0; several at once.")]) -> None:
    """Delete overlays."""
    from tpscope.frameworks import overlay, registry

    for name in names:
        said = "removed" if overlay.remove(registry.parse(name)) else "was not installed"
        Console().print(f"{name}: {said}", highlight=False)


cli_prove.register(app)
cli_check.register(app, Progress)
cli_migrate.register(app, Progress)
cli_recommend.register(app, Progress)
cli_plan.register(app, Progress)
cli_report.register(app)
cli_price.register(app, Progress, DEFAULT)
