"""Speed and memory of the library beside what you would use instead: `python -m benchmarks`.

measure     timing in turns, peak memory, where the time goes
document    a megabyte of English that every Python brings along
loading, decoding, tokenizing, training    what is compared with what; each yields rows
report      rows → tables
"""
