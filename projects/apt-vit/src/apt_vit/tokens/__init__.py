"""Which tokens stay, passes with those that stay (plainly, masked, dropped, packed), and what they cost."""
