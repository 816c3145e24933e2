"""Measuring videos that lie on a disk, whoever made them."""
