//! The grammar of Go's `flag` package: what a command line says, before anybody asks what it means.

/// One flag as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Its name, without dashes.
    pub name: String,
    /// Its value; a bare boolean has the value `true`.
    pub value: String,
}

/// A command line taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// Flags in the order given, repetitions included.
    pub flags: Vec<Given>,
    /// The first argument that is no flag. Nothing after it was looked at.
    pub stray: Option<String>,
}

/// What the grammar must know about a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// May stand alone; a value must be attached with `=`.
    Boolean,
    /// Takes a value, attached or as the next argument.
    Valued,
}

/// Why a command line cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// `-h` or `--help`: usage was asked for.
    #[error("help requested")]
    Help,
    /// Too many dashes, or no name.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    /// No such flag.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// The command line ended where a value was due.
    #[error("flag needs an argument: -{0}")]
    ValueMissing(String),
    /// `check` refused the value; the text says which flag and why.
    #[error("{0}")]
    Value(String),
}

/// Takes `arguments` (without the program's name) apart. `arity` knows the flags; `check` judges each value as it is
/// met, so that the first mistake on the line is the one reported.
pub fn parse(
    arguments: &[String],
    arity: impl Fn(&str) -> Option<Arity>,
    check: impl Fn(&str, &str) -> Result<(), String>,
) -> Result<CommandLine, GrammarError> {
    let mut line = CommandLine::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument.len() < 2 || !argument.starts_with('-') {
            line.stray = Some(argument.clone());
            break;
        }
        if argument == "--" {
            line.stray = rest.next().cloned();
            break;
        }
        let body = argument.strip_prefix("--").unwrap_or(&argument[1..]);
        if body.is_empty() || body.starts_with(['-', '=']) {
            return Err(GrammarError::Syntax(argument.clone()));
        }
        let (name, attached) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let Some(arity) = arity(name) else {
            let help = matches!(name, "help" | "h");
            return Err(if help {
                GrammarError::Help
            } else {
                GrammarError::Unknown(name.to_owned())
            });
        };
        let value = match (arity, attached) {
            (_, Some(value)) => value,
            (Arity::Boolean, None) => "true".to_owned(),
            (Arity::Valued, None) => rest
                .next()
                .cloned()
                .ok_or_else(|| GrammarError::ValueMissing(name.to_owned()))?,
        };
        check(name, &value).map_err(|cause| GrammarError::Value(refusal(arity, name, &value, &cause)))?;
        line.flags.push(Given {
            name: name.to_owned(),
            value,
        });
    }
    Ok(line)
}

/// Go's sentence about a bad value.
fn refusal(arity: Arity, name: &str, value: &str, cause: &str) -> String {
    match arity {
        Arity::Boolean => format!("invalid boolean value {value:?} for -{name}: {cause}"),
        Arity::Valued => format!("invalid value {value:?} for flag -{name}: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<CommandLine, GrammarError> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(
            &arguments,
            |name| match name {
                "flag" | "other" => Some(Arity::Valued),
                "switch" => Some(Arity::Boolean),
                _ => None,
            },
            |name, value| match (name, value) {
                ("switch", "true" | "false") => Ok(()),
                ("switch", _) | (_, "bad") => Err("parse error".to_owned()),
                _ => Ok(()),
            },
        )
    }

    fn given(pairs: &[(&str, &str)]) -> Vec<Given> {
        let own = |&(name, value): &(&str, &str)| Given {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        pairs.iter().map(own).collect()
    }

    #[test]
    fn every_form_of_a_flag_is_read() {
        for (line, flags) in [
            ("-flag x", given(&[("flag", "x")])),
            ("--flag x", given(&[("flag", "x")])),
            ("-flag=x", given(&[("flag", "x")])),
            ("--flag=x=y", given(&[("flag", "x=y")])),
            ("--flag=", given(&[("flag", "")])),
            ("--flag --other", given(&[("flag", "--other")])),
            ("--switch", given(&[("switch", "true")])),
            (
                "--switch=false --flag 1",
                given(&[("switch", "false"), ("flag", "1")]),
            ),
            ("--flag a --flag b", given(&[("flag", "a"), ("flag", "b")])),
        ] {
            assert_eq!(read(line), Ok(CommandLine { flags, stray: None }), "{line}");
        }
    }

    #[test]
    fn the_first_argument_that_is_no_flag_ends_the_reading() {
        for (line, stray) in [
            ("--switch false --bogus", Some("false")),
            ("stray", Some("stray")),
            ("-", Some("-")),
            ("--flag x -- --bogus", Some("--bogus")),
            ("--flag x --", None),
        ] {
            let line = read(line).expect("readable");
            assert_eq!(line.stray.as_deref(), stray);
        }
    }

    #[test]
    fn mistakes_are_told_in_gos_words() {
        for (line, message) in [
            ("--bogus", "flag provided but not defined: -bogus"),
            ("--bogus=1", "flag provided but not defined: -bogus"),
            ("--flag", "flag needs an argument: -flag"),
            ("---flag", "bad flag syntax: ---flag"),
            ("--=x", "bad flag syntax: --=x"),
            (
                "--switch=maybe",
                "invalid boolean value \"maybe\" for -switch: parse error",
            ),
            ("--flag bad", "invalid value \"bad\" for flag -flag: parse error"),
        ] {
            assert_eq!(read(line).expect_err(line).to_string(), message);
        }
        assert_eq!(read("-h"), Err(GrammarError::Help));
        assert_eq!(read("--help"), Err(GrammarError::Help));
    }
}
