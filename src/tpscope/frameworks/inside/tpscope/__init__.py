"""tpscope's own engine as one more framework of proofs. It alone imports engine/."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from tpscope.frameworks.inside.case import Refused
from tpscope.language.answer import Failure
from tpscope.language.verdict import Status


def preload() -> None:
    """Import what every case uses, and make the driver known under the name by which proofs look for one."""
    importlib.import_module("transformers.models.auto.modeling_auto")
    importlib.import_module("peft")
    run: Any = importlib.import_module("tpscope.frameworks.inside.proof.run")
    driver = importlib.import_module("tpscope.frameworks.inside.tpscope.driver")
    sys.modules["tpscope.frameworks.inside.proof.tpscope_driver"] = driver
    run._DRIVERS["tpscope"] = "TpscopeDriver"


def answer(case: Any) -> None:
    """Comparisons are between the plans of frameworks."""
    message = "tpscope's own engine runs a derived plan, which tpscope plan shows; it is proven, not compared"
    raise Refused(Status.UNSUPPORTED, Failure("NotCompared", message, "check"))
