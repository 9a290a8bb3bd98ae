//! `--name value` pairs after a command word.

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

    /// Takes a number, or its default.
    pub fn number(&mut self, name: &str, default: usize) -> anyhow::Result<usize> {
        match self.all(name).last() {
            Some(value) => value.parse().with_context(|| format!("--{name} {value}")),
            None => Ok(default),
        }
    }

    /// Takes a list of numbers, or its default.
    pub fn numbers(&mut self, name: &str, default: &[usize]) -> anyhow::Result<Vec<usize>> {
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
