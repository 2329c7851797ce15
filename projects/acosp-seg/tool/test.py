"""The original's test program, under its file name: the same as ``test``."""

from acosp_seg.test import main

if __name__ == "__main__":
    main()
