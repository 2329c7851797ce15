"""What a model sees: pictures prepared, the backbone's features of them, and the files of these."""
