//! The origin: a relay at the root, with rooms, speakers and tokens.

pub mod cli;
pub mod config;
pub mod http;
pub mod mint;
pub mod settings;
pub mod start;
pub mod store;
