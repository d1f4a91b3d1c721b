"""What the field goes by when it chooses channels: one module a method, and a table of them."""
