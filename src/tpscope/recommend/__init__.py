"""Which framework, version, layout and settings for a model, from facts. See docs/architecture.md."""
