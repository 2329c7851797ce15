"""The original's program that compares captions of runs, under its file name."""

from smp_caption.collect import captions_main

if __name__ == "__main__":
    captions_main()
