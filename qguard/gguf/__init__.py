"""GGUF: the files of llama.cpp, read without trust in any number of them, and written as llama.cpp writes them."""
