"""The original's program that makes the vocabulary and captions of numbers, under its file name."""

from smp_caption.prepare.labels import main

if __name__ == "__main__":
    main()
