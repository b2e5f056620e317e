"""RISH features, and networks that say what those of a better scanner would be."""
