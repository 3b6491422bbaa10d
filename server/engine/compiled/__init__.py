"""Decoder layers as machine code, made in a process of its own; imported only if asked for."""
