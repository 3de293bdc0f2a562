"""Where candidate policies come from."""
