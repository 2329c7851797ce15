"""The networks of channel-prune, one file each."""
