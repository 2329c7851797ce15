"""The file that the original starts after it was copied there: the same as ``train``."""

from channel_prune.train import main

if __name__ == "__main__":
    main()
