"""The original's evaluation program, under its file name: the same as ``test``."""

from expansionnet.test import main

if __name__ == "__main__":
    main()
