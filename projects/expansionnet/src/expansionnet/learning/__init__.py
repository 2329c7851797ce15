"""Parts of a training step: losses, rewards, samples, the optimiser, rates, and the order of samples."""
