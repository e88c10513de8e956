"""What a backup needs, looked at one thing after the other: what was found, what is missing, what to do."""
