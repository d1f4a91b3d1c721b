"""The model as a graph: channel labels, rules per operator, cutting, masking and counting."""
