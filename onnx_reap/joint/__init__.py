"""Refitting the layers of a stretch of the graph together."""
