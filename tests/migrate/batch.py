"""Files of the corpus, moved, and read by the framework that they are moved to."""

import json
from pathlib import Path

from tpscope.frameworks import overlay, reading, registry
from tpscope.frameworks.runner import overlay_environment
from tpscope.language.keys import KeysRequest
from tpscope.migrate.convert import convert, ranks_of
from tpscope.migrate.source import plain_of, read
from tpscope.migrate.write import text_of

DATA = Path("tests/data/migrate")
NAMES = {"axolotl": "axolotl@0.19.0", "nemo": "nemo@0.7.0"}
WORLD = 8


def files(kind):
    return sorted([*(DATA / kind).glob("*.y*ml")])


def moved(path, world=None, samples=None):
    """The output of one file as the target's reader has it, with the draft, what was unknown, and the text."""
    source = read(path)
    draft, unknown = convert(source, ranks_of(source, world or world_of(path)), samples)
    text = text_of(draft, source, unknown)
    return plain_of(text), draft, unknown, text


def world_of(path):
    """The ranks that a file itself makes up, else eight."""
    source = read(path)
    return ranks_of(source, None).world or WORLD


def read_all(kind, datas, worlds):
    """What a framework says of each of several files' content."""
    target = registry.parse(NAMES[kind])
    environment = overlay_environment(overlay.ensure(target, print))
    plain = [json.loads(json.dumps(data, default=str)) for data in datas]
    requests = [KeysRequest(target.id, data, {}, world) for data, world in zip(plain, worlds, strict=True)]
    return [reading.read(request, target, environment, fresh=True) for request in requests]
