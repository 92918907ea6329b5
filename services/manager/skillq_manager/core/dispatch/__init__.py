"""Dispatch: ready tasks and free workers, indexed so that each match is found quickly."""
