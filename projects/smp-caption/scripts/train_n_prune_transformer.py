"""The original's training program for pruned models, under its file name: the same as ``train``."""

from smp_caption.train import main

if __name__ == "__main__":
    main()
