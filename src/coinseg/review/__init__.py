"""The desk: a person looks at masks in the browser, corrects and decides; what was decided is kept, exported and learnt from."""
