"""What strangers read besides the profiles: layers, maps, inputs, climatology, files and releases.

Here belongs what turns profiles that have passed the gate into stores and files for people, and what tells one release of them
from another. Everything is a function of stores that are there; nothing here computes a profile.
"""
