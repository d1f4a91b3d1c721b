"""Synthetic samples that resemble what a model was trained on, as far as the model tells."""
