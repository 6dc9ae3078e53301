"""The judges of the register of statements, by subject. Each puts one question with a yes or a no to the rows."""
