"""What is kept: sessions on disk, written, listed and brought back."""
