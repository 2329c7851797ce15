"""The original's program that computes features, under its file name: the same as ``data-generator``."""

from expansionnet.data_generator import main

if __name__ == "__main__":
    main()
