"""Embedded data: one generator of pictures and their truth, written in the layouts of real sets."""

from prunelab.data.synthetic import captions, streets
from prunelab.data.synthetic.cached import cache_folder, cached
from prunelab.data.synthetic.regions import find_regions
from prunelab.data.synthetic.scenes import Scene, make_scene
from prunelab.data.synthetic.shape_drawing import Thing

__all__ = ["Scene", "Thing", "cache_folder", "cached", "captions", "find_regions", "make_scene", "streets"]
