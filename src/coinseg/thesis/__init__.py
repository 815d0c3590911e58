"""The tables and figures of the thesis, every row trained and scored again."""
