"""The example project, and the demo that runs it."""
