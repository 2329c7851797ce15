"""The original's program that makes boxes relative to their pictures, under its file name."""

from smp_caption.prepare.relative_boxes import main

if __name__ == "__main__":
    main()
