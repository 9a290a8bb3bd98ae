//! Flags, environment and file brought together: which settings were given, under their present names, with typed values.

use std::collections::BTreeMap;

use super::Ending;
use super::feature_gates::{FeatureGates, GATES};
use super::file::{self, Setting};
use super::flags::{self, Flag, Standing, Value};
use super::go_value::{self, GoDuration};
use super::grammar::{self, Arity, GrammarError};
use super::note::Note;
use super::urls::Url;

/// What every variable that concerns this program starts with.
const VARIABLE_PREFIX: &str = "ETCD_";

/// Flags that make no sense as settings of a file.
const NOT_IN_FILES: [&str; 2] = ["config-file", "version"];

/// The settings that were given, and the defaults of all others.
#[derive(Debug, Default)]
pub struct Values {
    given: BTreeMap<&'static str, Value>,
    gates_by_former_flag: Vec<(&'static str, bool)>,
    notes: Vec<Note>,
}

/// What a name on the command line or in the environment stands for.
#[derive(Clone, Copy)]
enum Meaning {
    Flag(&'static Flag),
    Renamed(&'static Flag),
    /// A switch of etcd 3.5 that has become this feature gate.
    Gate(&'static str),
}

fn meaning(name: &str) -> Option<Meaning> {
    if let Some(flag) = flags::find(name) {
        return Some(Meaning::Flag(flag));
    }
    if let Some(flag) = flags::renamed(name) {
        return Some(Meaning::Renamed(flag));
    }
    let former = name.strip_prefix("experimental-")?;
    let gate = GATES
        .iter()
        .find(|gate| !gate.former_flag.is_empty() && gate.former_flag == former)?;
    Some(Meaning::Gate(gate.name))
}

impl Meaning {
    fn arity(self) -> Arity {
        match self {
            Self::Flag(flag) | Self::Renamed(flag) => flag.arity(),
            Self::Gate(_) => Arity::Boolean,
        }
    }

    fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::Flag(flag) | Self::Renamed(flag) => flag.read(text).map(|_| ()),
            Self::Gate(_) => go_value::parse_bool(text).map(|_| ()),
        }
    }
}

impl Values {
    /// Reads a command line (without the program's name) and an environment.
    pub fn read(arguments: &[String], environment: &[(String, String)]) -> Result<Self, Ending> {
        let line = grammar::parse(
            arguments,
            |name| meaning(name).map(Meaning::arity),
            |name, text| meaning(name).map_or(Ok(()), |meaning| meaning.check(text)),
        )
        .map_err(|error| match error {
            GrammarError::Help => Ending::Help,
            error => Ending::Syntax(error.to_string()),
        })?;
        if let Some(stray) = line.stray {
            return Err(Ending::Invalid(format!("{stray:?} is not a valid flag")));
        }
        let mut values = Self::default();
        for given in &line.flags {
            if let Some(meaning) = meaning(&given.name) {
                // The grammar has checked the value already.
                values
                    .take(meaning, &given.name, &given.value)
                    .map_err(Ending::Syntax)?;
            }
        }
        if values.bool("version") {
            return Err(Ending::Version);
        }
        values.read_environment(environment, &line.flags)?;
        values.read_file()?;
        values.judge_standing()?;
        Ok(values)
    }

    fn read_environment(
        &mut self,
        environment: &[(String, String)],
        on_line: &[grammar::Given],
    ) -> Result<(), Ending> {
        for (variable, text) in environment {
            let Some(rest) = variable.strip_prefix(VARIABLE_PREFIX) else {
                continue;
            };
            if text.is_empty() || rest == "UNSUPPORTED_ARCH" {
                continue;
            }
            let name = rest.to_ascii_lowercase().replace('_', "-");
            // Images export ETCD_VERSION=3.x; as a flag it would only ever print the version.
            let known = meaning(&name).filter(|_| name != "version" && !rest.contains('-'));
            let Some(meaning) = known else {
                self.notes.push(Note::VariableUnknown {
                    name: variable.clone(),
                });
                continue;
            };
            if on_line.iter().any(|given| given.name == name) {
                return Err(Ending::Shadowed {
                    variable: variable.clone(),
                });
            }
            self.take(meaning, &name, text).map_err(|cause| {
                Ending::Invalid(format!("invalid value {text:?} for {variable}: {cause}"))
            })?;
            self.notes.push(Note::VariableUsed {
                name: variable.clone(),
                value: text.clone(),
            });
        }
        Ok(())
    }

    /// What the file says and neither line nor environment did.
    fn read_file(&mut self) -> Result<(), Ending> {
        let path = self.text("config-file");
        if path.is_empty() {
            return Ok(());
        }
        let wrong =
            |cause: String| Ending::Invalid(format!("cannot use the configuration file {path}: {cause}"));
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        let before = self.given.clone();
        for Setting { key, flag, text } in file::parse(&text).map_err(wrong)? {
            let known = flag
                .filter(|name| !NOT_IN_FILES.contains(&name.as_str()))
                .and_then(|name| Some((meaning(&name)?, name)));
            let Some((meaning, name)) = known else {
                self.notes.push(Note::FileKeyUnknown { key });
                continue;
            };
            let goes_before = match meaning {
                Meaning::Flag(flag) | Meaning::Renamed(flag) => before.contains_key(flag.name),
                Meaning::Gate(_) => false,
            };
            if !goes_before {
                self.take(meaning, &name, &text)
                    .map_err(|cause| wrong(format!("invalid value {text:?} for {key}: {cause}")))?;
                self.notes.push(Note::FileSettingUsed { key, value: text });
            }
        }
        Ok(())
    }

    fn take(&mut self, meaning: Meaning, name: &str, text: &str) -> Result<(), String> {
        match meaning {
            Meaning::Flag(flag) => {
                self.given.insert(flag.name, flag.read(text)?);
            }
            Meaning::Renamed(flag) => {
                self.note_renamed(name, format!("--{}", flag.name));
                self.given.insert(flag.name, flag.read(text)?);
            }
            Meaning::Gate(gate) => {
                let value = go_value::parse_bool(text)?;
                self.note_renamed(name, format!("--feature-gates={gate}={value}"));
                self.gates_by_former_flag.push((gate, value));
            }
        }
        Ok(())
    }

    fn note_renamed(&mut self, name: &str, present: String) {
        self.notes.push(Note::Renamed {
            former: format!("--{name}"),
            present,
        });
    }

    /// Refuses what is not served, and notes what has no effect. A default that is spelt out is neither.
    fn judge_standing(&mut self) -> Result<(), Ending> {
        let mut not_served = Vec::new();
        for flag in flags::all() {
            let Some(value) = self.given.get(flag.name) else {
                continue;
            };
            if *value == flag.default_value() {
                continue;
            }
            match flag.standing {
                Standing::Served => {}
                Standing::NotServed => not_served.push(format!("--{}", flag.name)),
                Standing::WithoutEffect(reason) => self.notes.push(Note::WithoutEffect {
                    setting: format!("--{}", flag.name),
                    reason,
                }),
            }
        }
        if not_served.is_empty() {
            return Ok(());
        }
        Err(Ending::Invalid(format!(
            "not served yet by this server, and not safe to ignore: {}; start without {}",
            not_served.join(", "),
            if not_served.len() == 1 { "it" } else { "them" }
        )))
    }

    /// Everything there is to say, in the order it came up; leaves nothing behind.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Whether the flag was given, by line or variable.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    fn value(&self, name: &str) -> Value {
        self.given.get(name).cloned().unwrap_or_else(|| {
            flags::find(name)
                .expect("callers name flags of the table, and a test asks for each")
                .default_value()
        })
    }

    /// A switch.
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Bool(true))
    }

    /// A signed number.
    pub fn int(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Int(number) => number,
            other => mistyped(name, &other),
        }
    }

    /// An unsigned number.
    pub fn uint(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Uint(number) => number,
            other => mistyped(name, &other),
        }
    }

    /// A duration.
    pub fn duration(&self, name: &str) -> GoDuration {
        match self.value(name) {
            Value::Duration(duration) => duration,
            other => mistyped(name, &other),
        }
    }

    /// A text.
    pub fn text(&self, name: &str) -> String {
        match self.value(name) {
            Value::Text(text) => text,
            other => mistyped(name, &other),
        }
    }

    /// A list of URLs.
    pub fn urls(&self, name: &str) -> Vec<Url> {
        match self.value(name) {
            Value::Urls(urls) => urls,
            other => mistyped(name, &other),
        }
    }

    /// The feature gates, former switches included.
    pub fn feature_gates(&self) -> FeatureGates {
        let mut gates = match self.value("feature-gates") {
            Value::Gates(gates) => gates,
            other => mistyped("feature-gates", &other),
        };
        for (gate, value) in &self.gates_by_former_flag {
            gates.set(gate, *value);
        }
        gates
    }
}

/// Only a wrong accessor in this module's callers leads here, and a test calls them all.
#[expect(clippy::panic, reason = "a slip of the program, not of its input")]
fn mistyped(name: &str, value: &Value) -> ! {
    panic!("--{name} has the value {value:?}, which is of another type")
}
