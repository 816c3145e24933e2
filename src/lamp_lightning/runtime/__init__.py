"""What every command stands on: files, their schemas, the machine. No model and no pipeline."""
