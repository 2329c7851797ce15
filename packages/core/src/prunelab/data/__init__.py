"""Data: loaders with stateless randomness, caption readers, features and their store, the embedded sets."""
