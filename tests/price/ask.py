"""One column of price for tests, on the calibrated machine; and what is left to a sweep."""

from tpscope.compare.ask import Wishes, question
from tpscope.frameworks import registry
from tpscope.price import hardware
from tpscope.price.run import Setting, price

# What takes long and is claimed by a smaller test too.


def column(pool, model, framework, sequence=512, loss="", recompute="", batch=1, **wishes):
    setting = Setting(hardware.machine("h200"), "h200", batch, sequence, loss=loss, recompute=recompute)
    return price(question(model, Wishes(**wishes)), [registry.parse(framework)], pool, setting).frameworks[0]
