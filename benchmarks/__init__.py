"""Runnable measurements: ratios against named baselines in one run, medians of at least three, JSON out."""
