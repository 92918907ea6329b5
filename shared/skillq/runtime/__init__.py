"""The parts of a process that know its environment: settings, logs, clock, standard streams."""
