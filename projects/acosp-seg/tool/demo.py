"""The original's demo program, under its file name: the same as ``demo``."""

from acosp_seg.demo import main

if __name__ == "__main__":
    main()
