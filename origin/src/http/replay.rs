//! Calls that are made twice: who repeats one with the same `Idempotency-Key` gets the first answer.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};

use axum::http::{HeaderMap, StatusCode};
use stentor_proto::limits;

use super::Problem;

/// The header's name (draft-ietf-httpapi-idempotency-key-header).
const HEADER: &str = "idempotency-key";

/// Answers by key, the oldest first; [`limits::IDEMPOTENT`] at most.
#[derive(Debug)]
pub(super) struct Replays<T>(Mutex<VecDeque<Replay<T>>>);

/// A call that is under way, or was made.
#[derive(Debug)]
struct Replay<T> {
    key: String,
    /// A hash of what was asked for.
    asked: u64,
    answer: Option<T>,
}

impl<T> Default for Replays<T> {
    fn default() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }
}

/// A call that is under way; dropped without an answer it may be made again.
#[derive(Debug)]
pub(super) struct UnderWay<'a, T> {
    replays: &'a Replays<T>,
    key: Option<String>,
}

/// What to do with a call.
#[derive(Debug)]
pub(super) enum Turn<'a, T> {
    /// Make it, and tell the answer by [`UnderWay::done`].
    First(UnderWay<'a, T>),
    /// It was made already; this is the answer.
    Again(T),
}

impl<T: Clone> Replays<T> {
    /// Whose turn it is: `caller` and the header's value name a call, which asks for `asked`. Without the
    /// header each call is a call of its own.
    ///
    /// # Errors
    /// When the value is too long, the same call is under way, or it asked for something else.
    pub(super) fn turn(
        &self,
        caller: &str,
        headers: &HeaderMap,
        asked: &str,
    ) -> Result<Turn<'_, T>, Problem> {
        let Some(value) = headers.get(HEADER) else {
            return Ok(Turn::First(UnderWay { replays: self, key: None }));
        };
        let value = value.to_str().unwrap_or_default();
        if !(1..=limits::NAME_BYTES).contains(&value.len()) {
            let most = limits::NAME_BYTES;
            let detail = format!("Idempotency-Key has 1 to {most} bytes of ASCII");
            return Err(Problem::bad("bad_idempotency_key", detail));
        }
        let key = format!("{caller}\n{value}");
        let mut hasher = DefaultHasher::new();
        asked.hash(&mut hasher);
        let asked = hasher.finish();
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match held.iter().find(|other| other.key == key) {
            Some(other) if other.asked != asked => {
                let detail = "this Idempotency-Key named another call; take a new one for each";
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Err(Problem::new(status, "idempotency_key_reused", detail))
            }
            Some(Replay { answer: Some(answer), .. }) => Ok(Turn::Again(answer.clone())),
            Some(_) => {
                let detail = "the same call is under way; ask again in a moment";
                let problem = Problem::new(StatusCode::CONFLICT, "under_way", detail);
                Err(problem.retry_after(1))
            }
            None => {
                if held.len() >= limits::IDEMPOTENT {
                    held.pop_front();
                }
                held.push_back(Replay { key: key.clone(), asked, answer: None });
                Ok(Turn::First(UnderWay { replays: self, key: Some(key) }))
            }
        }
    }
}

impl<T> UnderWay<'_, T> {
    /// The call was made.
    pub(super) fn done(mut self, answer: T) {
        let Some(key) = self.key.take() else { return };
        let mut held = self.replays.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = held.iter_mut().find(|call| call.key == key) {
            call.answer = Some(answer);
        }
    }
}

impl<T> Drop for UnderWay<'_, T> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut held = self.replays.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|call| call.key != key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_made_once_and_a_failed_one_again() {
        let replays = Replays::default();
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, "k".parse().unwrap());
        let Ok(Turn::First(first)) = replays.turn("ann", &headers, "x") else {
            panic!("the first")
        };
        assert_eq!(replays.turn("ann", &headers, "x").unwrap_err().code(), "under_way");
        assert!(matches!(replays.turn("bob", &headers, "x"), Ok(Turn::First(_))), "another caller");
        drop(first);
        let Ok(Turn::First(first)) = replays.turn("ann", &headers, "x") else {
            panic!("failed before")
        };
        first.done(7);
        assert!(matches!(replays.turn("ann", &headers, "x"), Ok(Turn::Again(7))));
        let other = replays.turn("ann", &headers, "y").unwrap_err();
        assert_eq!(other.code(), "idempotency_key_reused", "the key of another call");
        for n in 0..limits::IDEMPOTENT {
            headers.insert(HEADER, n.to_string().parse().unwrap());
            let Ok(Turn::First(one)) = replays.turn("ann", &headers, "x") else { panic!("{n}") };
            one.done(1);
        }
        assert_eq!(replays.0.lock().unwrap().len(), limits::IDEMPOTENT);
        headers.insert(HEADER, "x".repeat(129).parse().unwrap());
        assert_eq!(replays.turn("a", &headers, "x").unwrap_err().code(), "bad_idempotency_key");
    }
}
