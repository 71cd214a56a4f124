"""What makes a minute of training worth most.

Read in this order: `recipe` (what a run depends on, and its score), `tables` (of pairs of tokens, and for
values), `contest` (how `assets/minute.json` was made, and its table), `clock` and `verdict` (what
`course_lib/train/speedrun.py` needs).
"""
