"""Derives and proves the plans that the engine's tests run, into plans/: python tests/engine/derive.py"""

import sys
import warnings
from pathlib import Path

import torch
from subjects import config

from tpscope.plan import files
from tpscope.plan.inside.derive import Deriver
from tpscope.plan.inside.prove import prove, reference
from tpscope.plan.inside.subject import Sample, build

TWO = {"num_key_value_heads": 2}
WANTED = (
    ("qwen3-0.6b", {}, (2, 4)), ("qwen3-8b", {}, (2, 4)), ("llama-3.2-1b", {}, (2,)), ("gemma-2-9b", {}, (2,)),
    ("phi-3-mini", {}, (2,)), ("gpt-oss-20b", {}, (2,)), ("mixtral-8x7b", {}, (2,)),
    ("qwen3-8b-two-kv-heads", TWO, (4,)), ("gpt2", {}, (2,)), ("phi-2", {}, (2,)),
    ("command-r", {}, (2,)),
)  # fmt: skip


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = [item for item in WANTED if item[0] in sys.argv[1:] or len(sys.argv) == 1]
    for name, changes, sizes in chosen:
        model = build(config(name.removesuffix("-two-kv-heads"), **changes), "eager")
        sample = Sample.of(model)
        deriver, known = Deriver(model, sample), reference(model, sample)
        for tp in sizes:
            plan = deriver.derive(tp)
            assert prove(model, plan, known, sample).equal, name
            path = Path(__file__).parent / "plans" / f"{name}-tp{tp}.yaml"
            path.write_text(files.write(plan), encoding="utf-8")
            print(path.name, flush=True)


if __name__ == "__main__":
    main()
