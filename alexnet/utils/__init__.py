"""What every other package may use: files, locks, processes, the console."""
