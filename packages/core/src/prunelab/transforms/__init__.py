"""Pictures, with their label maps, on the way to a network."""
