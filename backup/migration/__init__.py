"""What threatens the tables: the migration command, and what it did."""
