"""Draws how sparse each layer of pruned runs is: ``plot-sparsities``."""

from smp_caption.plots import sparsities_main

if __name__ == "__main__":
    sparsities_main()
