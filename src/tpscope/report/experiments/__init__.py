"""Experiments beside the comparisons: each is a command that records rows of its own kind in results/experiments.jsonl.

`rows.py` is what every row has, `store.py` reads and writes the file and names every kind, `asking.py` is what the
commands share. Each experiment is one module with `main`, run as `python -m tpscope.report.experiments.NAME`.
"""
