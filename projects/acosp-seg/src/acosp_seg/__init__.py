"""ACoSP: segmentation networks that compress themselves while they train."""
