"""Files of weights: which kinds there are, how each is recognised, read and written."""
