"""Parts of a training step: which tokens are tried, the passes and what they share, products, schedules."""
