"""The original's Cityscapes program, under its file name: the same as ``convert_cityscapes``."""

from acosp_seg.convert_cityscapes import main

if __name__ == "__main__":
    main()
