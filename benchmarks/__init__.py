"""Measurements that the documents quote: speed and memory (``make bench``), accuracy on twins (``make twin``)."""
