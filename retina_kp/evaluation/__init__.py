"""What a registration is worth, measured on real and synthetic pairs."""
