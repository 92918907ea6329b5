"""The manager's decisions. Pure: no await, no clock, no log, no random; time and chance are arguments."""
