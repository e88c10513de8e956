"""A safety net for PostgreSQL migrations."""
