//! interim
#![allow(missing_docs)]
use crate::Time;
use crate::wire::*;
#[derive(Clone, Debug, Default)]
pub struct PlannerSettings {}
#[derive(Debug)]
pub struct Planner;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct PlanError;
pub struct RelaySeat<'a> {
    pub info: &'a RelayInfo,
    pub level: u8,
    pub parents: Vec<&'a str>,
    pub children: u32,
    pub listeners: u32,
    pub why: &'a str,
}
impl Planner {
    pub fn new(_: PlannerSettings) -> Self {
        Self
    }
    pub fn join(&mut self, _: Time, _: RelayInfo) -> Result<(), PlanError> {
        Ok(())
    }
    pub fn leave(&mut self, _: Time, _: &str) {}
    pub fn load(&mut self, _: Time, _: &str, _: &Load) {}
    pub fn level(&self, _: &str) -> Option<u8> {
        None
    }
    pub fn poll_placement(&mut self) -> Option<(String, Placement)> {
        None
    }
    pub fn handle_timeout(&mut self, _: Time) {}
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }
    pub fn topology(&self) -> impl Iterator<Item = RelaySeat<'_>> {
        std::iter::empty()
    }
}
#[derive(Debug, Default)]
pub struct Sums;
impl Sums {
    pub fn report(&mut self, _: Time, _: &str, _: u64, _: u64, _: u64) {}
    pub fn remove(&mut self, _: &str) {}
    pub fn expire(&mut self, _: Time) {}
    pub fn total(&self) -> u64 {
        0
    }
}
#[derive(Debug)]
pub struct Attach;
pub enum AttachAction {
    Open { relay: String, address: String, primary: bool },
    Close { relay: String },
}
impl Attach {
    pub fn new(_: u64) -> Self {
        Self
    }
    pub fn handle_placement(&mut self, _: Time, _: Placement) -> bool {
        true
    }
    pub fn handle_up(&mut self, _: Time, _: &str) {}
    pub fn handle_down(&mut self, _: Time, _: &str, _: &str) {}
    pub fn handle_timeout(&mut self, _: Time) {}
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }
    pub fn poll_action(&mut self) -> Option<AttachAction> {
        None
    }
    pub fn placement(&self) -> Option<&Placement> {
        None
    }
}
