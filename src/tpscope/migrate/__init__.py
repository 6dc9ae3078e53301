"""A training YAML of one framework, written for another: field by field, both ways, with every loss named."""
