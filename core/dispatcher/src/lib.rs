//! Knows which nodes are alive and what each should run: sessions, deadlines, assignment diffs, status folding.
