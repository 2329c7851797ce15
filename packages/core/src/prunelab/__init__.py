"""The shared core of PruneLab; import the module you need, e.g. ``from prunelab.run import Run``."""
