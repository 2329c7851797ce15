"""The original's programs that prepare COCO: features, boxes, labels and document frequencies.

Each module is one program; ``scripts/`` has it under the original's file name. Run again after a kill, each
goes on with what is missing.
"""
