"""The manager: takes submissions, decides who does what, counts every task once."""
