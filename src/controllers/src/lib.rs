//! The controllers, their runner and work queue.
