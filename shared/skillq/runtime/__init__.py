"""The parts of a process around its work: settings, logs, clock, standard streams."""
