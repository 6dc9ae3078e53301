"""A process that reads one training YAML and ends: it imports what reading takes, and nothing that a model takes."""
