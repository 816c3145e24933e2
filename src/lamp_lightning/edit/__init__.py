"""Editing a video: its motion stays, its look follows the new prompt."""
