"""The networks of acosp-seg, one file each."""
