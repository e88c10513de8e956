"""Benchmarks: this tool beside what a person would use instead. They are no tests."""
