"""Changes of the graph: cut, mask, merge."""
