"""The original's program that rounds the masks of a trained model, under its file name."""

from smp_caption.export import binarize

if __name__ == "__main__":
    binarize()
