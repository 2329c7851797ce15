"""The original's training program, under its file name: the same as ``train``."""

from apt_vit.train import main

if __name__ == "__main__":
    main()
