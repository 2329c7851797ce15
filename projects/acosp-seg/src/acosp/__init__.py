"""ACoSP: prune the channels of any convolutional network while it trains."""
