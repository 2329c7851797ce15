"""Files of weights and graphs: which kinds there are, how each is recognised, read and written."""
