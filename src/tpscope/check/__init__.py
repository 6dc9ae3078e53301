"""A user's training YAML: would it run, is it equal, what to change. See docs/architecture.md."""
