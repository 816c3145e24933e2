"""Prompts and first frames to videos: the pipeline, and the command that samples."""
