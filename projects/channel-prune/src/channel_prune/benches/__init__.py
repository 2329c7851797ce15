"""What ``bench`` measures, a file a subject; the straightforward ways stand in the ``_reference`` files."""
