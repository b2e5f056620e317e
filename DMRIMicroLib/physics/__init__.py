"""Physics that every method shares."""
