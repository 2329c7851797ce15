"""The original's program for SSD on Pascal VOC, under its file name: ``train`` with that network."""

import sys

from channel_prune.train import main

if __name__ == "__main__":
    main(["--program=vgg_at_pascalvoc_run", *sys.argv[1:]])
