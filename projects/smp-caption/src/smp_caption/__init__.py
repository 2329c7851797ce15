"""Supermask pruning of image captioning models."""
