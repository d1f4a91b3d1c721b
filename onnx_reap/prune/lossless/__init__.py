"""Channels whose removal changes nothing, found in the weights alone."""
