"""Detection with SSD: anchors, matching, loss, post-processing, files of detections, data and evaluation."""
