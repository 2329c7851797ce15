"""The original's program that counts n-grams for CIDEr-D, under its file name."""

from smp_caption.prepare.ngrams import main

if __name__ == "__main__":
    main()
