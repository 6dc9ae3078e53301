"""Many files through one warm process of a framework: its start is paid once."""

import json
import queue
from pathlib import Path

from pydantic import TypeAdapter

from tpscope.frameworks import overlay, registry
from tpscope.frameworks.runner import Server, overlay_environment
from tpscope.language.answer import to_json
from tpscope.language.keys import KeysAnswer, KeysRequest
from tpscope.migrate.convert import convert, ranks_of
from tpscope.migrate.source import plain_of, read
from tpscope.migrate.write import text_of

DATA = Path("tests/data/migrate")
NAMES = {"axolotl": "axolotl@0.19.0", "nemo": "nemo@0.7.0"}
WORLD = 8
_ANSWER = TypeAdapter(KeysAnswer)


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


def read_all(kind, datas, scratch, worlds):
    """What a framework says of each of several files' content."""
    target = registry.parse(NAMES[kind])
    environment = overlay_environment(overlay.ensure(target, print))
    replies = queue.Queue()
    server = Server(target, environment, scratch / "log", replies)
    found = []
    try:
        for index, (data, world) in enumerate(zip(datas, worlds, strict=True)):
            plain = json.loads(json.dumps(data, default=str))
            request = KeysRequest(target.id, plain, {}, world, [str(root) for root in environment.roots])
            question, answer = scratch / f"{index}.json", scratch / f"{index}.answer.json"
            question.write_text(json.dumps(to_json(request)))
            server.order({"verb": "keys", "request": str(question), "answer": str(answer), "seconds": 60})
            replies.get(timeout=300)
            found.append(_ANSWER.validate_json(answer.read_bytes()))
    finally:
        server.close()
    return found
