"""Experiments that run in a framework's own interpreter, one module each, asked by `tpscope.report.experiments`."""
