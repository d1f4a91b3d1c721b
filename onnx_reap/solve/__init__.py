"""Removal paths and refits: arrays in, arrays out; no ONNX in here."""
