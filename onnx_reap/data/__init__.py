"""Calibration data: what the model is run on, and how it is read."""
