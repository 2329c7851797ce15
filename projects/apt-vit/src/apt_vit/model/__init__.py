"""The networks of apt-vit, one file each."""
