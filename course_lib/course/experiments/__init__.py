"""The long runs of the lessons: each script measures what takes too long for a notebook, and writes it to
`assets/`.
"""
