"""Run a trained model: KV cache, decoding, sampling, chat models, llama.cpp, bits per byte."""
