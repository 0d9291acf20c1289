"""The lab: classic toy tasks with known answers, and which cell learns them."""
