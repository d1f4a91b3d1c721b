"""Channel labels that flow through the graph."""
