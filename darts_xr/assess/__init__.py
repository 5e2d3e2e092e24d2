"""Placeholder for the room; its paragraph is written with it."""
