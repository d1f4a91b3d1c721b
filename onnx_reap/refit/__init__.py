"""Repair: every layer behind a cut learns to give what it used to give, from what it now receives."""
