"""What experiments measure: the nouns that cross the process border and stand in their rows.

Apart from the rest of the language because no comparison and no proof depends on it: kept answers outlive its changes.
"""
