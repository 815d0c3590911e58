"""The page a person looks at; reads files only."""
