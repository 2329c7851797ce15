"""The original's inference program, under its file name: the same as ``infer``."""

from apt_vit.infer import main

if __name__ == "__main__":
    main()
