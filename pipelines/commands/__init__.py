"""The verbs of ``darts-xr``, one module each, with the click command in ``command``.

The libraries that do the work load when a verb runs, so that ``--help`` and the TAB key answer at once.
"""
