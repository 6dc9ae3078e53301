"""Inside a framework on real devices: build a case with its own code, time it, calibrate the machine."""
