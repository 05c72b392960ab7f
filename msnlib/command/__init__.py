"""The command ``msn``: jobs, the processes that run them, sweeps, clusters and the course."""
