"""Stage quantize: a model to small files for laptops."""
