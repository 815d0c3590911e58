"""What the machine does: files, locks, processes, devices, threads, batches and signals; nothing about images."""
