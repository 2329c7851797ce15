"""The original's program that gathers the scores of many runs, under its file name."""

from smp_caption.collect import scores_main

if __name__ == "__main__":
    scores_main()
