"""Tools that a language model may call while it generates text. One file each."""
