"""Run the attempts of a worker."""
