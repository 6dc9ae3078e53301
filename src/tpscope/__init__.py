"""tpscope: tensor parallelism of large models, understood and proven by running the frameworks' own code."""

__version__ = "0.1.0"
