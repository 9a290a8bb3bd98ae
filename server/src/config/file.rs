//! `--config-file`: etcd's YAML, as texts for the flags that it stands for.
//!
//! Two differences to etcd, both so that nothing is dropped in silence: what the command line and the environment say goes
//! before the file instead of being ignored beside one, and keys that mean nothing are named. Durations may be written
//! as on the command line; a plain number is etcd's nanoseconds.

use saphyr::{LoadableYamlNode, Scalar, Yaml};

use super::flags::{self, Kind};

/// Sections of etcd's file and the flags that their keys stand for. Source: operations specification 1.3.
const SECTIONS: [(&str, &[(&str, &str)]); 2] = [
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            (
                "skip-client-san-verification",
                "peer-skip-client-san-verification",
            ),
        ],
    ),
];

/// One setting of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As it stands in the file; a section and a key have a dot between them.
    pub key: String,
    /// The flag that it stands for, if there may be one.
    pub flag: Option<String>,
    /// The value as one would write it on the command line.
    pub text: String,
}

/// Reads the settings of a file in its order, those without a value left out.
///
/// # Errors
/// What is wrong with the file, for people.
pub fn parse(text: &str) -> Result<Vec<Setting>, String> {
    let documents = Yaml::load_from_str(text).map_err(|error| error.to_string())?;
    let Some(document) = documents.first() else {
        return Ok(Vec::new());
    };
    if documents.len() > 1 {
        return Err("it has more than one document".to_owned());
    }
    if is_nothing(document) {
        return Ok(Vec::new());
    }
    let mut settings = Vec::new();
    for (key, value) in entries(document).ok_or("it is not a map of settings")? {
        let key = name(key)?;
        match SECTIONS.iter().find(|(section, _)| *section == key) {
            None => settings.extend(setting(key, Some(key), value)?),
            Some(_) if is_nothing(value) => {}
            Some((_, flags)) => {
                let inner = entries(value).ok_or_else(|| format!("{key} is not a map of settings"))?;
                for (inner, value) in inner {
                    let inner = name(inner)?;
                    let flag = flags
                        .iter()
                        .find(|(known, _)| *known == inner)
                        .map(|(_, flag)| *flag);
                    settings.extend(setting(&format!("{key}.{inner}"), flag, value)?);
                }
            }
        }
    }
    Ok(settings)
}

fn entries<'y>(value: &'y Yaml<'y>) -> Option<impl Iterator<Item = (&'y Yaml<'y>, &'y Yaml<'y>)>> {
    match value {
        Yaml::Mapping(map) => Some(map.iter()),
        _ => None,
    }
}

fn is_nothing(value: &Yaml<'_>) -> bool {
    matches!(value, Yaml::Value(Scalar::Null))
}

fn name<'y>(key: &'y Yaml<'y>) -> Result<&'y str, String> {
    match key {
        Yaml::Value(Scalar::String(name)) => Ok(name),
        other => Err(format!("the key {other:?} is not a text")),
    }
}

fn setting(key: &str, flag: Option<&str>, value: &Yaml<'_>) -> Result<Option<Setting>, String> {
    if is_nothing(value) {
        return Ok(None);
    }
    let text = match value {
        Yaml::Sequence(items) => {
            let items: Option<Vec<String>> = items.iter().map(scalar).collect();
            items.map(|items| items.join(","))
        }
        value => scalar(value),
    };
    let text = text.ok_or_else(|| format!("{key} has neither a value nor a list of values"))?;
    let is_duration = flag
        .and_then(|name| flags::find(name).or_else(|| flags::renamed(name)))
        .is_some_and(|flag| flag.kind == Kind::Duration);
    let is_number = matches!(value, Yaml::Value(Scalar::Integer(_)));
    Ok(Some(Setting {
        key: key.to_owned(),
        flag: flag.map(str::to_owned),
        text: if is_duration && is_number {
            format!("{text}ns")
        } else {
            text
        },
    }))
}

fn scalar(value: &Yaml<'_>) -> Option<String> {
    match value {
        Yaml::Value(Scalar::String(text)) => Some(text.to_string()),
        Yaml::Value(Scalar::Boolean(value)) => Some(value.to_string()),
        Yaml::Value(Scalar::Integer(number)) => Some(number.to_string()),
        Yaml::Value(Scalar::FloatingPoint(number)) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags_of(text: &str) -> Vec<(String, String)> {
        let settings = parse(text).unwrap();
        let flags = settings.into_iter().map(|setting| {
            (
                setting.flag.unwrap_or_else(|| format!("? {}", setting.key)),
                setting.text,
            )
        });
        flags.collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = pairs
            .iter()
            .map(|(flag, text)| ((*flag).to_owned(), (*text).to_owned()));
        owned.collect()
    }

    #[test]
    fn settings_are_read_as_flags() {
        let text = "
name: 'one'
data-dir:
quota-backend-bytes: 0
pre-vote: false
snapshot-count: 5000
watch-progress-notify-interval: 5000000000
warning-apply-duration: 100ms
log-outputs: [stderr, /var/log/kelson]
client-transport-security:
  cert-file: a.crt
  client-cert-auth: true
  colour: blue
peer-transport-security:
  cert-file: b.crt
  allowed-cn: [x, y]
";
        let expected = pairs(&[
            ("name", "one"),
            ("quota-backend-bytes", "0"),
            ("pre-vote", "false"),
            ("snapshot-count", "5000"),
            ("watch-progress-notify-interval", "5000000000ns"),
            ("warning-apply-duration", "100ms"),
            ("log-outputs", "stderr,/var/log/kelson"),
            ("cert-file", "a.crt"),
            ("client-cert-auth", "true"),
            ("? client-transport-security.colour", "blue"),
            ("peer-cert-file", "b.crt"),
            ("peer-cert-allowed-cn", "x,y"),
        ]);
        assert_eq!(flags_of(text), expected);
    }

    #[test]
    fn json_is_yaml_too() {
        assert_eq!(
            flags_of(r#"{"name": "one", "pre-vote": true}"#),
            pairs(&[("name", "one"), ("pre-vote", "true")])
        );
        assert_eq!(flags_of(""), []);
        assert_eq!(flags_of("# nothing\n"), []);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (text, complaint) in [
            ("- a\n- b\n", "not a map"),
            ("name: {a: b}", "name has neither"),
            ("name: [[a]]", "name has neither"),
            ("client-transport-security: yes please", "not a map"),
            ("1: a", "not a text"),
            ("name: a\n---\nname: b\n", "more than one"),
            ("name: 'a", "line"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }
}
