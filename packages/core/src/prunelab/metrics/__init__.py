"""What predictions are worth: segmentation, classification, running means."""
