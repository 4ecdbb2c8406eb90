"""Run the stages of a recipe: the runner, the registry, fingerprints and the run folder."""
