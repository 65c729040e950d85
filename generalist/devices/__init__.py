"""What training, evaluation and inference stand on: the mesh, processes, signals and memory."""
