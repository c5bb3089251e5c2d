"""The types that cross a process boundary, and everything that uses Redis. No torch, ray, vllm or transformers."""
