"""Repair: layers behind a cut give what they used to give, from what they now receive."""
