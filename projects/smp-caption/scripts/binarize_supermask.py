"""The original's program that rounds the masks of a trained model, under its file name."""

from prunelab.errors import entry
from smp_caption.cli import parse_binarize
from smp_caption.export import export

if __name__ == "__main__":
    entry(lambda argv: export(parse_binarize(argv)) and None)()
