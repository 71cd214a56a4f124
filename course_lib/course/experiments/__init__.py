"""The long runs of the lessons: each script measures what takes too long for a notebook.

The results are written to `assets/`.
"""
