"""Derives a tensor-parallel plan by experiments on a small model of the same structure, and proves it."""
