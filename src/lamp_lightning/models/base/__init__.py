"""Base models: a text-to-image model from a folder, the hub, a single file or a name."""
