"""What people and operators see: the command line, its displays, logs and metrics, the report and the demo.

Here belong words and pictures. Nothing imports this package.
"""
