"""DeepProfile."""
