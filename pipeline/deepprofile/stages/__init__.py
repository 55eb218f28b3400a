"""The stages: what a block of each does, and the pipeline that runs them in their order."""
