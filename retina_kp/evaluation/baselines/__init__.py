"""Well-known registration methods to compare with."""
