"""Make a pruned network smaller: a graph of producers and consumers, keep-lists, slicing, constants."""
