"""What is known of operators: traits of each, and rules for channels; one row an operator."""
