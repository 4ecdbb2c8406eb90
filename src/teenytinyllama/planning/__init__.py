"""From budget, GPU and text to a plan and a recipe (paper 3.1); what this machine can do."""
