"""What runs in a framework's own environment: the standard library, torch, the framework, and `tpscope.language`."""
