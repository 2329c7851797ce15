"""Rows of ``python -m apt_vit.bench``, with the plain ways that they are compared with."""
