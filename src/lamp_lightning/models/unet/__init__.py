"""The motion UNet: an image UNet inflated in place, and AnimateDiff's for comparison."""
