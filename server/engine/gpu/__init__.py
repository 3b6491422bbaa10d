"""What makes decode steps quick on a GPU: captured passes, and parts of layers in fewer kernels."""
