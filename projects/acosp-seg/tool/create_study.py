"""The original's study program, under its file name: the same as ``create_study``."""

from acosp_seg.study import main

if __name__ == "__main__":
    main()
