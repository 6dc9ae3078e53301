"""The eleven sections of the study, in its order, each a function from the recorded rows to lines of Markdown."""
