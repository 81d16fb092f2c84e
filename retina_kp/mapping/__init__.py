"""What a registration is and does: transforms, bends, errors to be expected, warping, carrying along, and its files."""
