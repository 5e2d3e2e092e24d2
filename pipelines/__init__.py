"""Compositions of the library that a user calls or runs."""
