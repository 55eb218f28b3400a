"""The numerics: arrays in, arrays out.

Here belong profile inversion, triple collocation, the error model and the prior. What reads or writes files, knows Dask, or
knows where soil moisture comes from does not.
"""
