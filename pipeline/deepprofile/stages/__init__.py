"""The stages: what a block of each does, what its store looks like, and the pipeline that runs them in their order.

Here belongs what is computed and stored. Numerics belong in ``core``, repeating and recording in ``execution``, and what people
see in ``app``.
"""
