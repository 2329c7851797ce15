"""The original's CIFAR-10 program, under its file name: the same as ``train_cifar10``."""

from acosp_seg.train_cifar10 import main

if __name__ == "__main__":
    main()
