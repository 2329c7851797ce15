"""The original's demonstration, under its file name: the same as ``demo``."""

from expansionnet.demo import main

if __name__ == "__main__":
    main()
