//! etcd's feature gates: every name it knows, and what each means here.

/// How far etcd has brought a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off unless asked for.
    Alpha,
    /// On unless refused.
    Beta,
}

/// One gate.
#[derive(Debug)]
pub struct Gate {
    /// As `--feature-gates` spells it.
    pub name: &'static str,
    /// Its stage in etcd 3.7.
    pub stage: Stage,
    /// Its value when nobody sets it.
    pub default: bool,
    /// What a value other than the default does here; none: such a value is refused.
    pub without_effect: Option<&'static str>,
    /// The boolean flag of etcd 3.5 that the gate replaced, without `experimental-`; empty if there was none.
    pub former_flag: &'static str,
}

const fn gate(
    name: &'static str,
    stage: Stage,
    former_flag: &'static str,
    without_effect: Option<&'static str>,
) -> Gate {
    Gate {
        name,
        stage,
        default: matches!(stage, Stage::Beta),
        without_effect,
        former_flag,
    }
}

/// All gates of etcd 3.7, by name.
pub const GATES: &[Gate] = &[
    gate(
        "CompactHashCheck",
        Stage::Alpha,
        "compact-hash-check-enabled",
        Some("members compare their state every second, compaction or not"),
    ),
    gate(
        "FastLeaseKeepAlive",
        Stage::Beta,
        "",
        Some("leases are always renewed without waiting for apply"),
    ),
    gate(
        "InitialCorruptCheck",
        Stage::Alpha,
        "initial-corrupt-check",
        Some(
            "members compare their state from the start on, every second; checksums are verified on every read",
        ),
    ),
    gate(
        "LeaseCheckpoint",
        Stage::Alpha,
        "enable-lease-checkpoint",
        Some("leases get their full time to live after a leader change"),
    ),
    gate(
        "LeaseCheckpointPersist",
        Stage::Alpha,
        "enable-lease-checkpoint-persist",
        Some("leases get their full time to live after a leader change"),
    ),
    gate(
        "PriorityRequest",
        Stage::Alpha,
        "",
        Some("all requests share one queue"),
    ),
    gate("SetMemberLocalAddr", Stage::Alpha, "set-member-localaddr", None),
    gate(
        "StopGRPCServiceOnDefrag",
        Stage::Alpha,
        "stop-grpc-service-on-defrag",
        Some("defragmentation interrupts nothing"),
    ),
    gate(
        "TxnModeWriteWithSharedBuffer",
        Stage::Beta,
        "txn-mode-write-with-shared-buffer",
        Some("reads share no buffer with writes"),
    ),
];

/// Which gates are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureGates {
    values: Vec<bool>,
}

impl Default for FeatureGates {
    fn default() -> Self {
        Self {
            values: GATES.iter().map(|gate| gate.default).collect(),
        }
    }
}

impl FeatureGates {
    /// Reads `Name=true,Name2=false`. Errors are etcd's.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut gates = Self::default();
        let mut explicit = vec![false; GATES.len()];
        let mut stages = Vec::new();
        for setting in text
            .split(',')
            .map(str::trim)
            .filter(|setting| !setting.is_empty())
        {
            let (name, value) = setting
                .split_once('=')
                .map(|(name, value)| (name.trim(), value.trim()))
                .ok_or_else(|| format!("missing bool value for {setting}"))?;
            let value = super::go_value::parse_bool(value).map_err(|_| {
                format!(
                    "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
                )
            })?;
            match name {
                "AllAlpha" => stages.push((Stage::Alpha, value)),
                "AllBeta" => stages.push((Stage::Beta, value)),
                _ => {
                    let at = position(name).ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
                    gates.values[at] = value;
                    explicit[at] = true;
                }
            }
        }
        // A gate named by itself wins over its stage, wherever it stands in the list.
        for (stage, value) in stages {
            for (at, _) in GATES.iter().enumerate().filter(|(_, gate)| gate.stage == stage) {
                if !explicit[at] {
                    gates.values[at] = value;
                }
            }
        }
        Ok(gates)
    }

    /// Whether the gate of that name is on; unknown gates are off.
    pub fn enabled(&self, name: &str) -> bool {
        position(name).is_some_and(|at| self.values[at])
    }

    /// Sets one gate; unknown names do nothing.
    pub fn set(&mut self, name: &str, value: bool) {
        if let Some(at) = position(name) {
            self.values[at] = value;
        }
    }

    /// Every gate with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Gate, bool)> + '_ {
        GATES.iter().zip(self.values.iter().copied())
    }

    /// Refuses combinations that etcd refuses, and gates that change something this server does not do.
    pub fn validate(&self) -> Result<(), String> {
        if self.enabled("LeaseCheckpointPersist") && !self.enabled("LeaseCheckpoint") {
            return Err(
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"
                    .into(),
            );
        }
        for (gate, value) in self.iter() {
            if value != gate.default && gate.without_effect.is_none() {
                return Err(format!("feature gate {}={value} is not served yet", gate.name));
            }
        }
        Ok(())
    }
}

fn position(name: &str) -> Option<usize> {
    GATES.iter().position(|gate| gate.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_set_by_name_and_by_stage() {
        let gates = FeatureGates::parse("InitialCorruptCheck=true, FastLeaseKeepAlive=false").expect("valid");
        assert!(gates.enabled("InitialCorruptCheck"));
        assert!(!gates.enabled("FastLeaseKeepAlive"));
        assert!(gates.enabled("TxnModeWriteWithSharedBuffer"));

        let gates = FeatureGates::parse("LeaseCheckpoint=false,AllAlpha=true,AllBeta=false").expect("valid");
        assert!(gates.enabled("CompactHashCheck"));
        assert!(!gates.enabled("LeaseCheckpoint"));
        assert!(!gates.enabled("FastLeaseKeepAlive"));
        assert_eq!(FeatureGates::parse("").expect("valid"), FeatureGates::default());
    }

    #[test]
    fn malformed_gates_are_refused_in_etcds_words() {
        for (text, message) in [
            ("Bogus=true", "unrecognized feature gate: Bogus"),
            ("LeaseCheckpoint", "missing bool value for LeaseCheckpoint"),
            (
                "LeaseCheckpoint=on",
                "invalid value of LeaseCheckpoint=on, err: strconv.ParseBool: parsing \"on\": invalid syntax",
            ),
        ] {
            assert_eq!(FeatureGates::parse(text), Err(message.to_owned()));
        }
    }

    #[test]
    fn persisted_checkpoints_need_checkpoints_and_unserved_gates_are_refused() {
        let judge = |text| FeatureGates::parse(text).expect("readable").validate();
        assert!(judge("LeaseCheckpointPersist=true").is_err());
        assert_eq!(judge("LeaseCheckpointPersist=true,LeaseCheckpoint=true"), Ok(()));
        assert_eq!(
            judge("SetMemberLocalAddr=true"),
            Err("feature gate SetMemberLocalAddr=true is not served yet".into())
        );
        assert_eq!(judge("SetMemberLocalAddr=false"), Ok(()));
    }
}
