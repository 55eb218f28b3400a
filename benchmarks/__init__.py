"""Measurements that the README quotes: speed and memory (``make bench``), accuracy on twins (``make twin``)."""
