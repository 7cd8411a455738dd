//! The two machines of a node.
