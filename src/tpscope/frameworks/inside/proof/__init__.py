"""Proofs: the framework's own code on real ranks, against the same model unsharded."""
