"""The long runs behind lessons: each script measures what takes too long to be measured in the lesson, and writes it to `assets/`."""
