"""Layers as two thinner ones: which can be, by what bases, and rewriting the graph."""
