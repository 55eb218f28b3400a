"""Runs on real granules and real stations, each a module with a command of its own."""
