"""Captions as words, and the words that a model knows."""
