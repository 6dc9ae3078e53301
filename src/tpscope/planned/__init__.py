"""Plans written in the formats of frameworks, and proven through those frameworks."""
