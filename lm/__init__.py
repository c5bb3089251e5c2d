"""A causal language model on packed prefixes, its tokenizer, and how vLLM is started."""
