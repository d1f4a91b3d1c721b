"""Latency tables: what layers take at some widths on one device, and what a plan follows from."""
