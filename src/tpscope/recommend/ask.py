"""What the user wants of a recommendation, and the layouts that come into question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tpscope.check.layout import good_tps, heads, sentence
from tpscope.errors import UserError
from tpscope.language.layout import Layout, Lora
from tpscope.models import axolotl_yaml, catalog, nemo_yaml
from tpscope.models.files import yaml_of
from tpscope.models.read import read
from tpscope.models.spec import Intent, ModelSpec

LORA = Lora(16, 32, ("all-linear",))
RULES = (
    "layout: the smallest tp of 2 or more that divides the heads, the key-value heads and the ranks; FSDP (dp_shard) "
    "over the rest",
    "where a framework takes no FSDP beside tp: tp over all ranks, if that divides the heads",
    "a candidate is proved in every way that its config implies, each alone and all together, and is out at the first "
    "that is not equal; a setting that nobody asked for is then left out and the rest proved again",
    "rank: equal in every way first; then fewer settings left out, more of the parameters sharded over tp, fewer "
    "extra costs that compare sees, the order of the candidates",
)


@dataclass(frozen=True)
class Asked:
    """What the user wants. `own_plan`: the framework must take a plan of the user's own."""

    input: str
    world: int
    tp: int | None = None
    hardware: str = ""
    lora: bool = False
    sequence_parallel: bool = False
    own_plan: bool = False
    with_: tuple[str, ...] = ()
    python: Path | None = None
    fresh: bool = False
    trust_remote_code: bool = False

    @property
    def command(self) -> str:
        """The command that asks the same again."""
        words = ["tpscope recommend", self.input, f"--world {self.world}"]
        words += [f"--tp {self.tp}"] if self.tp else []
        words += [f"--hardware {self.hardware}"] if self.hardware else []
        flags = {
            "--lora": self.lora, "--sequence-parallel": self.sequence_parallel, "--own-plan": self.own_plan,
            "--trust-remote-code": self.trust_remote_code,
        }  # fmt: skip
        words += [flag for flag, given in flags.items() if given]
        words += [f"--with {name}" for name in self.with_]
        return " ".join([*words, f"--python {self.python}"] if self.python else words)


@dataclass(frozen=True)
class Wanted:
    """A model by the name that the frameworks load it by, and how it is to be trained."""

    spec: ModelSpec
    reference: str
    tp: int | None
    lora: Lora | None
    sequence_parallel: bool
    notes: tuple[str, ...] = ()


def wanted(asked: Asked) -> Wanted:
    """Read INPUT and put the flags over what it says. Raises UserError where no framework could load the model."""
    spec, intent = read(asked.input, asked.trust_remote_code)
    reference, notes = _reference(asked.input, intent)
    stated = intent.layout.tp if "tp" in intent.stated and intent.layout.tp > 1 else None
    for axis in ("cp", "pp"):
        if getattr(intent.layout, axis) > 1:
            notes.append(
                f"{axis}={getattr(intent.layout, axis)} of the file is left out: only tp and FSDP are laid out"
            )
    return Wanted(
        spec,
        reference,
        asked.tp or stated,
        intent.lora or (LORA if asked.lora else None),
        asked.sequence_parallel or bool(intent.sequence_parallel),
        tuple(notes),
    )


def layouts(want: Wanted, world: int) -> list[Layout]:
    """The layouts to try, the one of the first rule first. Raises UserError where no tp size fits."""
    sizes = [tp for tp in good_tps(want.spec, world) if tp > 1]
    tp = want.tp or (sizes[0] if sizes else 0)
    if not tp:
        count, kv = heads(want.spec)
        raise UserError(
            f"--world {world}: no tp of 2 or more divides the {count} attention heads and {kv} key-value heads of "
            f"{want.spec.name} and {world} ranks{_other_worlds(want.spec, world)}; --tp N tries one in spite of it"
        )
    if world % tp:
        raise UserError(f"--tp {tp} does not divide --world {world}; {_sizes(sizes)}")
    found = [Layout(dp_shard=world // tp, tp=tp, sequence_parallel=want.sequence_parallel)]
    if want.tp is None and world in sizes and world != tp:
        found.append(Layout(tp=world, sequence_parallel=want.sequence_parallel))
    return found


def _other_worlds(spec: ModelSpec, world: int) -> str:
    """Numbers of ranks near `world` at which there would be a layout."""
    fitting = [size for size in range(2, world + 3) if any(tp > 1 for tp in good_tps(spec, size))]
    return f" (with {sentence(fitting[-3:])} ranks one does)" if fitting else ""


def _sizes(sizes: list[int]) -> str:
    return f"write --tp {sentence(sizes)}" if sizes else "no tp of 2 or more fits; change --world"


def _reference(text: str, intent: Intent) -> tuple[str, list[str]]:
    """How a config names the model: a hub id, or a directory. Raises UserError where INPUT is neither."""
    if intent.kind and intent.path is not None:
        reader = axolotl_yaml.intent if intent.kind == "axolotl" else nemo_yaml.intent
        named, _ = reader(yaml_of(intent.path).data, intent.path)
        if named.inline is not None:
            raise UserError(
                f"{text}, key {named.key}: the config of the model is written there, so no config that is written here "
                "could name it; save it as config.json into a directory and give that"
            )
        notes = [f"{text}: its model, tp, LoRA and sequence parallel are taken over, nothing else"]
        if named.overrides or named.merged:
            keys = ", ".join({**named.overrides, **named.merged})
            notes.append(f"{text} changes the published config ({keys}), which is not taken over")
        return named.text, notes
    if entry := catalog.by_name(text.strip()):
        return entry.hub_ids[0], []
    path = Path(text.strip()).expanduser()
    if path.is_file():
        if path.name != "config.json":
            raise UserError(f"{text}: frameworks load a directory with a config.json in it; rename the file to that")
        return str(path.parent), []
    return text.strip(), []
