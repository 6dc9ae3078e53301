"""A comparison written by hand. `alpha` and `beta` are invented: nothing here was said by a real framework."""

from tpscope.compare.result import Comparison, Difference, Model
from tpscope.language.answer import (
    Failure,
    FrameworkAnswer,
    Head,
    LogLine,
    Mesh,
    ParameterRow,
    PlanRow,
    Selection,
    Step,
    TrailLine,
)
from tpscope.language.verdict import Reduction, Severity, Status

HIDDEN, LAYERS, TP = 512, 3, 2
SOURCE = "alpha/distributed/plans.py"


def layout(**sizes: int) -> dict[str, int]:
    axes = {"pp": 1, "dp_replicate": 1, "dp_shard": 2, "cp": 1, "tp": TP, **sizes}
    world = 1
    for size in axes.values():
        world *= size
    return {**axes, "world": world, "sequence_parallel": False}


def rule(pattern: str, style: str, kind: str, forward: list[str], backward: list[str], matched: int) -> PlanRow:
    return PlanRow(pattern, style, kind, True, {}, "Replicate()", None, forward, backward, "none", matched)


def parameters(layers: int, norm: Reduction, spelling: str = "self_attn") -> list[ParameterRow]:
    rows = [_row("model.embed_tokens.weight", "Replicate()", norm, None)]
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        attention = f"model.layers.*.{spelling}"
        rows += [
            _row(f"{prefix}.{spelling}.q_proj.weight", "Shard(dim=0)", Reduction.SHARDED, f"{attention}.q_proj"),
            _row(f"{prefix}.{spelling}.o_proj.weight", "Shard(dim=1)", Reduction.SHARDED, f"{attention}.o_proj"),
            _row(f"{prefix}.{spelling}.q_norm.weight", "Replicate()", norm, None),
        ]
    return rows


def _row(name: str, placement: str, loop: Reduction, pattern: str | None) -> ParameterRow:
    shape = [HIDDEN] if "norm" in name else [HIDDEN, HIDDEN]
    local = list(shape)
    if placement.startswith("Shard"):
        local[int(placement[10])] //= TP
    marked = Reduction.SHARDED if placement.startswith("Shard") else Reduction.NONE
    mesh = {"dp_shard": "Shard(dim=0)", "tp": placement}
    return ParameterRow(name, shape, placement, local, marked, loop, pattern, True, mesh)


def trail(path: str, first: int, count: int) -> list[TrailLine]:
    return [TrailLine(path, first + at, "choose_plan", f"candidate = sources[{at}](model)") for at in range(count)]


def alpha(layers: int = LAYERS, lines: int = 12) -> FrameworkAnswer:
    where = TrailLine("alpha/loop.py", 88, "clip", "return clip_grad_norm(parameters)")
    return FrameworkAnswer(
        id="alpha@1.0.0",
        environment={
            "packages": {"alpha": "1.0.0", "torch": "2.13.0"},
            "outside_pin": [{"package": "torch", "version": "2.13.0", "declared": "<2.12"}],
        },
        model_class="alpha.models.sample.SampleForCausalLM",
        selection=Selection(
            level="optimized",
            function=f"{SOURCE}:choose_plan",
            order=[
                Step("custom", "a plan is given", "not asked"),
                Step("optimized", "the class is registered", "gave the plan"),
                Step("base", "nothing else gave a plan", "not reached"),
            ],
            experiments=[
                {"registered": "no", "outcome": "base"},
                {"registered": "yes", "outcome": "optimized"},
            ],
            trail=[*trail(SOURCE, 40, lines), *trail("alpha/registry.py", 7, 3), *trail(SOURCE, 300, 2)],
        ),
        plan=[
            rule("model.layers.*.self_attn", "PrepareInput", "input", ["all_gather"], ["reduce_scatter"], layers),
            rule("model.layers.*.self_attn.q_proj", "ColwiseParallel", "colwise", [], ["all_reduce"], layers),
            rule("model.layers.*.self_attn.o_proj", "RowwiseParallel", "rowwise", ["all_reduce"], [], layers),
            rule("model.layers.*.self_attn.qkv_proj", "ColwiseParallel", "colwise", [], [], 0),
        ],
        parameters=parameters(layers, Reduction.SUM),
        total_parameters=123_456_789,
        sharded_fraction=0.99996,
        unmatched=["model.layers.*.self_attn.qkv_proj"],
        ignored=[{"setting": "sequence_parallel", "what": "asked for, and no rule shards the sequence"}],
        head=Head(
            "lm_head", "ColwiseParallel", "Shard(dim=-1)", "loss", False, False, "alpha.loss.Masked", True, where
        ),
        mesh=Mesh({"dp": 2, "tp": TP}, {}, "alpha.mesh.build"),
        forward={"collectives_small_model": {"forward": {"all_reduce": 5}, "backward": {"all_reduce": 11}}},
        loop_error=Failure("RuntimeError", "mixed tensors in clip", "training loop", where, "Traceback: line 88"),
        gradient_trail=trail("alpha/loop.py", 60, 9),
        log=[LogLine("INFO", "alpha.mesh", "mesh built")] * 4 + [LogLine("WARNING", "alpha.plan", "rule unused")],
        shims=["build(device='cuda') is given 'cpu'"],
        seconds={"import": 1.23456789},
    )


def beta(layers: int = LAYERS, lines: int = 12) -> FrameworkAnswer:
    return FrameworkAnswer(
        id="beta@2.1.0",
        environment={
            "packages": {"beta": "2.1.0", "torch": "2.13.0"},
            "declared": {"torch": "<2.14"},
            "outside_pin": [],
        },
        model_class="beta.modeling_sample.SampleForCausalLM",
        selection=Selection(
            level="hf",
            function="beta/configuration_sample.py:31",
            order=[Step("hf", "the config has a plan", "gave the plan"), Step("none", "otherwise", "not reached")],
            trail=trail("beta/parallel.py", 500, lines),
        ),
        plan=[
            rule("model.layers.*.self_attn.q_proj", "colwise", "colwise", [], ["all_reduce"], layers),
            rule("model.layers.*.self_attn.o_proj", "rowwise", "rowwise", ["all_reduce"], [], layers),
        ],
        parameters=parameters(layers, Reduction.NONE),
        total_parameters=123_456_789,
        sharded_fraction=0.935,
        log=[LogLine("INFO", "beta.trainer", "total steps = 1")],
    )


def refused() -> FrameworkAnswer:
    where = TrailLine("gamma/validate.py", 17, "check_model", "raise ValueError(words)")
    error = Failure("ValueError", "tied heads are not supported", "validation", where, "Traceback: gamma line 17")
    return FrameworkAnswer(id="gamma@0.3", status=Status.REFUSED, error=error)


def differences() -> list[Difference]:
    return [
        Difference(
            "gradient of q_norm",
            {"alpha@1.0.0": "sum", "beta@2.1.0": "none"},
            "q_norm: alpha@1.0.0 sums its gradient over tp, beta@2.1.0 leaves it as it is",
            Severity.WRONG,
        ),
        Difference(
            "first optimizer step",
            {"alpha@1.0.0": "mixed tensors in clip", "beta@2.1.0": "reaches it"},
            "alpha@1.0.0: the loop raises & stops before the first optimizer step (alpha/loop.py:88)",
            Severity.BLOCKS,
        ),
        Difference(
            "plan level",
            {"alpha@1.0.0": "optimized", "beta@2.1.0": "hf"},
            "alpha@1.0.0 takes the plan of level optimized, beta@2.1.0 takes the plan of level hf",
            Severity.NOTE,
        ),
    ]


def comparison(*columns: FrameworkAnswer, name: str = "sample-1b", **sizes: int) -> Comparison:
    model = Model(name, "SampleForCausalLM", "sample", "written by hand", "unconfirmed", {"hidden_size": HIDDEN})
    return Comparison(model, layout(**sizes), list(columns) or [alpha(), beta()], differences(), None, ["a sample"])
