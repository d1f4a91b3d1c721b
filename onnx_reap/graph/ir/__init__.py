"""The loaded model, and what one run tells of it."""
