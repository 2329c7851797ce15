"""Draws scores of runs against sparsity: ``plot-scores``."""

from smp_caption.plots import scores_main

if __name__ == "__main__":
    scores_main()
