"""The original's program for MobileNets on ILSVRC-12, under its file name: ``train`` with that network."""

import sys

from channel_prune.train import main

if __name__ == "__main__":
    main(["--program=mobilenet_at_ilsvrc12_run", *sys.argv[1:]])
