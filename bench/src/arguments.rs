//! `--name value` pairs after a command word.

use std::str::FromStr;

use anyhow::Context;

/// What the command line said and has not been asked for yet.
pub struct Arguments {
    command: String,
    pairs: Vec<(String, String)>,
}

impl Arguments {
    /// The process' own.
    pub fn of_process() -> anyhow::Result<Self> {
        let mut words = std::env::args().skip(1);
        let command = words.next().context("a command is missing")?;
        let mut pairs = Vec::new();
        while let Some(word) = words.next() {
            let name = word
                .strip_prefix("--")
                .with_context(|| format!("{word:?} is not an option"))?;
            let value = words.next().with_context(|| format!("--{name} needs a value"))?;
            pairs.push((name.to_owned(), value));
        }
        Ok(Self { command, pairs })
    }

    /// The first word.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Takes every value given for `name`.
    pub fn all(&mut self, name: &str) -> Vec<String> {
        let (taken, kept) = std::mem::take(&mut self.pairs)
            .into_iter()
            .partition(|(key, _)| key == name);
        self.pairs = kept;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// Takes a comma-separated list that must be there.
    pub fn list(&mut self, name: &str) -> anyhow::Result<Vec<String>> {
        let values = self.all(name);
        let last = values.last().with_context(|| format!("--{name} is missing"))?;
        Ok(last.split(',').map(str::to_owned).collect())
    }

    /// Takes a value that must be there.
    pub fn required(&mut self, name: &str) -> anyhow::Result<String> {
        self.all(name)
            .pop()
            .with_context(|| format!("--{name} is missing"))
    }

    /// Takes a comma-separated list that need not be there.
    pub fn list_or_none(&mut self, name: &str) -> Vec<String> {
        let last = self.all(name).pop().unwrap_or_default();
        last.split(',')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// Takes a text, or its default.
    pub fn text(&mut self, name: &str, default: &str) -> String {
        self.all(name).pop().unwrap_or_else(|| default.to_owned())
    }

    /// Takes a number, or its default.
    pub fn number<N>(&mut self, name: &str, default: N) -> anyhow::Result<N>
    where
        N: FromStr,
        N::Err: std::error::Error + Send + Sync + 'static,
    {
        match self.all(name).last() {
            Some(value) => value.parse().with_context(|| format!("--{name} {value}")),
            None => Ok(default),
        }
    }

    /// Takes a list of numbers, or its default.
    pub fn numbers(&mut self, name: &str, default: &[u64]) -> anyhow::Result<Vec<u64>> {
        match self.all(name).last() {
            Some(value) => value
                .split(',')
                .map(|n| n.parse().with_context(|| format!("--{name} {value}")))
                .collect(),
            None => Ok(default.to_vec()),
        }
    }

    /// Whatever nobody asked for is a mistake.
    pub fn finish(&self) -> anyhow::Result<()> {
        match self.pairs.first() {
            Some((name, _)) => anyhow::bail!("unknown option --{name}"),
            None => Ok(()),
        }
    }
}
