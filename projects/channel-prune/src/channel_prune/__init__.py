"""channel-prune: LASSO channel pruning, with slim networks that are faster."""
