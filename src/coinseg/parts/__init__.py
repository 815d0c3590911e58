"""The optional parts of the recipe, one file and one row in `table.py` each; docs/guide/adding-a-part.md adds one."""
