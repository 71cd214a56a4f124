"""What teaches a small model to look something up and to copy it: two experiments.

`repeats`: text that is told twice. `drilled`: easier questions beside the harder ones. `curves` runs both.
"""
