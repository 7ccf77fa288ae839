"""What `benchmarks/peers.py` runs: the common setting, the contenders and the worker that measures one of them."""
