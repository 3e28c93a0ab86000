//! Puts pending tasks on nodes: filter, rank, spread, and a sentence for people when nothing fits.
