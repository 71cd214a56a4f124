"""The kernels on a GPU, in one run of less than eight minutes: `make gpu`, or `python -m benchmarks.gpu`.

    plan            how a stage runs: on which device, until when, by which clock
    device_tests    the kernels' own tests, in 32 and 16 bits
    sweeps          tiles other than the kernels' own: whether they are right, and how fast
    contests        the kernels, PyTorch step by step, compiled and fused, and the machine's own limits
    stages          all of these in order, each within its budget, even if others fail
    results         the results as a file

It needs PyTorch, Triton, NumPy and pytest, and none of the course's other requirements. Without a GPU it runs
with small sizes in Triton's interpreter, to show that it works: its times then mean nothing.
"""
