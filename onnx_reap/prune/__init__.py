"""The run: from a goal to a pruned and refitted model."""
