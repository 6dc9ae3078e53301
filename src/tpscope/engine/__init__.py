"""Runs a derived plan: plain local parameters and explicit collectives."""
