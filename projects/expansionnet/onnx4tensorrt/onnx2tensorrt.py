"""The original's conversion to TensorRT, under its file name."""

from expansionnet.engine import main

if __name__ == "__main__":
    main()
