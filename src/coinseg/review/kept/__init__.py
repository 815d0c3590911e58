"""What reviewers did, in a database: cases, strokes, decisions; and the reviewed masks that a training reads."""
