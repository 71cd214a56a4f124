"""Compare the library's speed and memory with what you would use instead: `python -m benchmarks`.

measure     interleaved timing, peak memory, profiles
document    a megabyte of English that is part of every Python
loading, decoding, quantized, tokenizing, training, adapting    the comparisons; each yields rows
report      rows → tables
"""
