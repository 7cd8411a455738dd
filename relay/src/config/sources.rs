//! Where configuration comes from, in order of precedence, and what is said when it is wrong.

use std::fmt;
use std::path::Path;

use figment::error::Kind;
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const PREFIX: &str = "STENTOR_";
const FLAGS: &str = "flags";
/// Variables of the other programs of the project: no mistake in the environment of this one.
const OF_OTHERS: &[&str] = &[
    "config",
    "origin",
    "token",
    "token_file",
    "level",
    "rooms",
    "rooms_on_first_use",
    "keys",
    "verify",
    "tree",
    "api",
    "store",
    "http",
    "http_writes_per_s",
    "stage_listen",
];

/// A text that is never shown: `Debug` and serialization give stars.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps a secret.
    #[must_use]
    pub const fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself, for the one who has to send or check it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// A mistake in the configuration: which key, its value, where it was written, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The key with dots (`tls.cert`); empty when the whole file is at fault.
    pub key: String,
    /// The value as written, if there is one and it is no secret.
    pub value: Option<String>,
    /// Where it was written: a flag, a variable, a file, or the default.
    pub place: String,
    /// What is wrong and what to do.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.value, self.key.is_empty()) {
            (_, true) => write!(f, "{}: {}", self.place, self.problem),
            (Some(value), _) => {
                write!(f, "{} = {value} ({}): {}", self.key, self.place, self.problem)
            }
            (None, _) => write!(f, "{} ({}): {}", self.key, self.place, self.problem),
        }
    }
}

/// File, environment and flags, merged, each value with its place.
#[derive(Debug)]
pub struct Sources {
    figment: Figment,
}

impl Sources {
    /// Merges a file (if one is named), the process's environment and the flags.
    ///
    /// `flags` serializes to the same keys as the file and leaves out what was not given.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML.
    pub fn new(file: Option<&Path>, flags: impl Serialize) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        if let Some(file) = file {
            std::fs::read_to_string(file).map_err(|error| ConfigError {
                key: String::new(),
                value: None,
                place: format!("file {}", file.display()),
                problem: format!("cannot be read: {error}"),
            })?;
            figment = figment.merge(Toml::file_exact(file));
        }
        let figment = figment
            .merge(Env::prefixed(PREFIX).ignore(&["config"]).split("__"))
            .merge(Flags(Serialized::defaults(flags)));
        Ok(Self { figment })
    }

    /// Reads the two halves of a program's configuration and refuses keys that neither has.
    ///
    /// Every field of both is serialized by its default, which is how the keys are known.
    ///
    /// # Errors
    /// The first mistake, with its key and place.
    pub fn read<A, B>(&self) -> Result<(A, B), ConfigError>
    where
        A: DeserializeOwned + Serialize + Default,
        B: DeserializeOwned + Serialize + Default,
    {
        let written: Dict = self.figment.extract().map_err(|e| self.explain(e))?;
        let known = [keys::<A>(), keys::<B>()].concat();
        for key in written.keys() {
            let foreign = OF_OTHERS.contains(&key.as_str()) && self.place(key).starts_with("env");
            if !known.contains(key) && !foreign {
                let problem = format!("is unknown; known are {}", known.join(", "));
                return Err(self.wrong(key, problem));
            }
        }
        let first = self.figment.extract().map_err(|e| self.explain(e))?;
        let second = self.figment.extract().map_err(|e| self.explain(e))?;
        Ok((first, second))
    }

    /// A mistake in the value of `key`.
    #[must_use]
    pub fn wrong(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError {
            value: self.value(key),
            place: self.place(key),
            key: key.to_owned(),
            problem: problem.into(),
        }
    }

    fn explain(&self, error: figment::Error) -> ConfigError {
        let mut path = error.path.clone();
        let problem = match &error.kind {
            Kind::UnknownField(field, known) => {
                if path.last() != Some(field) {
                    path.push(field.clone());
                }
                format!("is unknown; known are {}", known.join(", "))
            }
            Kind::MissingField(field) => {
                path.push(field.to_string());
                "is missing".to_owned()
            }
            // The value itself is shown beside it, or hidden because it is a secret.
            Kind::InvalidType(_, wanted) | Kind::InvalidValue(_, wanted) => {
                format!("has the wrong type or range; write {wanted}")
            }
            Kind::UnknownVariant(_, known) => format!("is not one of {}", known.join(", ")),
            other => other.to_string(),
        };
        let key = path.join(".");
        let from = error.metadata.as_ref().map(|from| place(from, &key));
        ConfigError {
            value: self.value(&key),
            place: from.unwrap_or_else(|| self.place(&key)),
            key,
            problem,
        }
    }

    /// Where a key was written, or, for a part of a list, where the list was.
    fn place(&self, key: &str) -> String {
        let mut known = key;
        if self.find(key).is_none() {
            return "not given".to_owned();
        }
        loop {
            if let Some(found) = self.figment.find_metadata(known) {
                return place(found, known);
            }
            match known.rsplit_once('.') {
                Some((parent, _)) => known = parent,
                None => return "not given".to_owned(),
            }
        }
    }

    fn value(&self, key: &str) -> Option<String> {
        if key.ends_with("token") {
            return self.find(key).map(|_| "***".to_owned());
        }
        match self.find(key)? {
            Value::Dict(..) => None,
            value => serde_json::to_string(&value).ok(),
        }
    }

    /// A value by its key, through tables and lists (`rooms.0.name`).
    fn find(&self, key: &str) -> Option<Value> {
        let mut parts = key.split('.');
        let mut found = self.figment.find_value(parts.next()?).ok()?;
        for part in parts {
            found = match found {
                Value::Dict(_, mut table) => table.remove(part)?,
                Value::Array(_, mut list) => {
                    let at = part.parse().ok().filter(|at| *at < list.len())?;
                    list.swap_remove(at)
                }
                _ => return None,
            };
        }
        Some(found)
    }
}

/// The flags as a provider that can be told apart from the rest.
struct Flags<T>(Serialized<T>);

impl<T: Serialize> Provider for Flags<T> {
    fn metadata(&self) -> Metadata {
        Metadata::named(FLAGS)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        self.0.data()
    }
}

fn place(metadata: &Metadata, key: &str) -> String {
    if let Some(Source::File(path)) = &metadata.source {
        return format!("file {}", path.display());
    }
    if metadata.name == FLAGS {
        return match key {
            "tls.dev" => "flag --dev".to_owned(),
            key => format!("flag --{}", key.replace(['.', '_'], "-")),
        };
    }
    format!("environment {PREFIX}{}", key.replace('.', "__").to_uppercase())
}

fn keys<T: Serialize + Default>() -> Vec<String> {
    match serde_json::to_value(T::default()) {
        Ok(serde_json::Value::Object(fields)) => fields.keys().cloned().collect(),
        _ => Vec::new(),
    }
}
