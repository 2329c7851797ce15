"""APT: a vision transformer that learns which tokens to drop."""
