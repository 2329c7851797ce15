"""The networks of expansionnet, one file each."""
