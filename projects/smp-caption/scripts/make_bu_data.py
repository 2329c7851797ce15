"""The original's program that unpacks bottom-up features, under its file name."""

from smp_caption.prepare.bottom_up import main

if __name__ == "__main__":
    main()
