"""Strangers: other readers, in other languages, and checkers of conventions open what is published, with no word of ours."""
