"""The original's evaluation program, under its file name: the same as ``test``."""

from smp_caption.test import main

if __name__ == "__main__":
    main()
