"""The frameworks' real code on real devices: cases, rows, calibration. Runs under torchrun: `docs/bench.md`."""
