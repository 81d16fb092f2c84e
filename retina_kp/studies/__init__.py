"""Long experiments; nothing imports them."""
