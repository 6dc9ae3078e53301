"""The nouns that all rooms speak. Dataclasses and the standard library only: framework environments import this too."""
