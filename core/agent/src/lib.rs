//! A node's half of the bargain: assigned tasks in, next operation and status reports out; defines Executor and Controller.
