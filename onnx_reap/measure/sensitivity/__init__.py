"""What removing channels does to the final output, group by group."""
