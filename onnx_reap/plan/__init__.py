"""How many channels each group keeps, and which."""
