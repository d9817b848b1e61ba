"""What only a GPU can show. `make gpu` runs it; without a CUDA device it is skipped."""

CUDA = "cuda:0"
