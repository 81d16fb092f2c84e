"""The four phases."""
