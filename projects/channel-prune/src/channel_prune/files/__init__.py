"""Files of networks: which kind a file is, reading any of them, and writing the original's.

`recognise` tells a file's kind by its content, `weights` reads what it holds (`bundle` and `crc`: checkpoints
of TensorFlow); `original` writes those again. `saved` is a model folder of ours, `adopt` makes one of any
file, and `loading` takes whatever a flag may name.
"""
