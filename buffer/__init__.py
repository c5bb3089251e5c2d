"""What crosses a process boundary, and everything that touches Redis. No torch, ray, vllm or transformers."""
