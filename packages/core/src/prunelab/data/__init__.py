"""Data: loaders with stateless randomness, caption readers, features, the feature store and the embedded sets."""
