"""What is shown to people: progress, and text that no terminal obeys."""
