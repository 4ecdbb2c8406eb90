"""The recipe: one module of settings a phase; `settings.recipe` joins them."""
