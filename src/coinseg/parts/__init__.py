"""The optional parts of the recipe, one file each: what a part learns, how it is kept, and what it changes when masks are made.

A part is added by its file, its settings and its row in `table.py`; docs/guide/adding-a-part.md does it once.
"""
