"""Tests that take a minute each where nothing is kept run with TPSCOPE_SWEEP=1 (`make sweep`)."""

import os

import pytest


def pytest_collection_modifyitems(items):
    if not os.environ.get("TPSCOPE_SWEEP"):
        for item in items:
            if item.get_closest_marker("sweep"):
                item.add_marker(pytest.mark.skip(reason="a sweep: TPSCOPE_SWEEP=1 runs it"))
