"""Tools that a language model may call while it writes. One file each."""
