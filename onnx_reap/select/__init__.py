"""Which channels go first: removal paths of all groups."""
