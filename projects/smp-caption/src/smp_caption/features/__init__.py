"""Features of pictures: how they are computed, where they lie, and how several become a batch."""
