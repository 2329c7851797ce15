"""Rows of ``bench``: each a setting in which ours and the plain way of the original run side by side."""
