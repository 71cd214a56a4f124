"""The kernels on a GPU, in one run of less than eight minutes: `make gpu`, or `python -m benchmarks.gpu`.

    plan            how a stage runs: on which device, until when, by which clock
    device_tests    the kernels' own tests, in 32 and 16 bits
    sweeps          other tiles than the kernels' own: right, and how fast?
    contests        beside PyTorch step by step, compiled and fused, and the machine's own limits
    stages          all of these in order, each within its budget, whatever becomes of the others
    results         what was found, as a file

It needs PyTorch, Triton, NumPy and pytest, and nothing else of what the course needs. Without a GPU it runs small, in Triton's
interpreter, to show that it works: its times then mean nothing.
"""
