"""Which source lines put the rules of a plan there."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

from torch import nn

from tpscope.frameworks.inside.proof.driver import Work
from tpscope.frameworks.inside.trace import Trail, cite
from tpscope.language.answer import TrailLine
from tpscope.language.plan import Rule
from tpscope.language.style import BY_NAME

_MOST = 3


def hugging_face(work: Work, model: nn.Module, patterns: Iterable[str]) -> list[TrailLine]:
    """Lines of the configuration class (`base_model_tp_plan`), or of the model class, that name these modules."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    plan = {str(key): str(style) for key, style in (getattr(base, "tp_plan", None) or {}).items()}
    config = getattr(base, "config", None)
    files = [inspect.getsourcefile(type(item)) for item in (config, base) if item is not None]
    if config is not None and hasattr(config, "get_text_config"):
        files.append(inspect.getsourcefile(type(config.get_text_config())))
    trail = Trail(work.roots, ("",))
    paths = [path for file in files if file and (path := trail.relative(str(Path(file))))]
    found: list[TrailLine] = []
    for key in _named(plan, patterns):
        short = key.removeprefix("model.").removeprefix("language_model.")
        for path in dict.fromkeys(paths):
            line = cite(work.roots, path, f'"{short}": "{plan[key]}"', "base_model_tp_plan") or cite(
                work.roots, path, f'"{short}"', "_tp_plan"
            )
            if line is not None and line not in found:
                found.append(line)
                break
    return found[:_MOST]


def nemo(work: Work, model: nn.Module, patterns: Iterable[str]) -> list[TrailLine]:
    """Lines of the selected plan that name these modules; where it has no rule for them, the function that made it."""
    from tpscope.frameworks.inside.nemo_selection import selection_trail

    case = SimpleNamespace(roots=work.roots, request=work.request, setting=lambda family, key: None)
    raw, trail = selection_trail(case, model)  # type: ignore[arg-type]
    named = _named({str(key): "" for key in raw}, patterns)
    found = [line for key in named for line in trail.lines if f'"{key}"' in line.text or f"'{key}'" in line.text]
    if found:
        return list({(line.path, line.line): line for line in found}.values())[:_MOST]
    for path, name, value in trail.returned:
        if name == "_get_parallel_plan":
            continue
        if (
            isinstance(value, dict)
            and value.keys() == raw.keys()
            and (line := cite(work.roots, path, f"def {name}", name))
        ):
            return [line]
    return []


def _named(plan: dict[str, str], patterns: Iterable[str]) -> list[str]:
    """Keys of a plan that are about modules or parameters of these patterns."""
    style = next(iter(BY_NAME.values()))
    found = []
    for pattern in patterns:
        name = pattern.replace(".*.", ".0.").removeprefix("base_model.model.")
        for key in plan:
            rule = Rule(key, style)
            if rule.matches(name) or rule.matches(name.partition(".")[2]) or rule.matches(f"{name}.weight"):
                found.append(key)
    return list(dict.fromkeys(found))
