"""Columns made by hand, to put known situations in front of the difference finder. No framework stands behind them."""

from tpscope.language.answer import Failure, FrameworkAnswer, Head, Mesh, ParameterRow, PlanRow, Selection, TrailLine
from tpscope.language.verdict import Reduction, Status


def row(name, placement="Replicate()", loop="none", plan="none", shape=(8, 8), local=None, rule=None):
    """One parameter."""
    local = local or [size // 2 if placement == f"Shard(dim={dim})" else size for dim, size in enumerate(shape)]
    return ParameterRow(name, list(shape), placement, list(local), Reduction(plan), Reduction(loop), rule)


def plan_row(pattern, style="colwise", output="Shard(dim=2)"):
    """One rule."""
    return PlanRow(pattern, style, style, True, {}, "Replicate()", output, [], ["all_reduce"], "none", 1)


def column(identifier, rows=(), level="hf", tied=False, tied_after=False, **more):
    """One column that ran."""
    rows = list(rows)
    total = sum(row.shape[0] * (row.shape[1] if len(row.shape) > 1 else 1) for row in rows)
    return FrameworkAnswer(
        id=identifier, model_class="m.Model", selection=Selection(level=level), parameters=rows,
        total_parameters=total, sharded_fraction=0.5, mesh=Mesh({"tp": 2}), head=Head(tied=tied, tied_after=tied_after),
        **more,
    )  # fmt: skip


def refused(identifier, message="no thanks", status=Status.REFUSED):
    """One column that did not run."""
    where = TrailLine("pkg/check.py", 7, "check", "raise ValueError(")
    return FrameworkAnswer(id=identifier, status=status, error=Failure("ValueError", message, "refusals", where))
