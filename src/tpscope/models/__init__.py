"""From what the user names to a published configuration: see docs/architecture.md."""
