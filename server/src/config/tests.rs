use super::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn pairs(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn read(line: &str, environment: &[(&str, &str)]) -> Result<Loaded, Ending> {
    load(&words(line), &pairs(environment), || {
        Some(IpAddr::from([10, 0, 0, 7]))
    })
}

fn loaded(line: &str) -> Loaded {
    read(line, &[]).expect(line)
}

fn refused(line: &str) -> String {
    match read(line, &[]) {
        Err(Ending::Invalid(message)) => message,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn defaults_are_etcds() {
    let Loaded { config, notes } = loaded("");
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(config.wal_dir, None);
    assert_eq!(config.cluster.initial_cluster, "default=http://localhost:2380");
    assert_eq!(config.cluster.token, "etcd-cluster");
    assert!(!config.cluster.joins_existing);
    assert_eq!(config.cluster.heartbeat, Duration::from_millis(100));
    assert_eq!(config.cluster.election_timeout, Duration::from_secs(1));
    assert!(config.cluster.pre_vote);
    assert_eq!(config.cluster.quota_backend_bytes, Some(2 << 30));
    assert_eq!(config.limits.max_txn_ops, 128);
    assert_eq!(config.limits.max_request_bytes, 1_572_864);
    assert_eq!(config.limits.max_concurrent_streams, u32::MAX);
    assert_eq!(config.keepalive.interval, Some(Duration::from_secs(7200)));
    assert_eq!(config.keepalive.timeout, Some(Duration::from_secs(20)));
    assert_eq!(
        (config.snapshot_count, config.snapshot_catchup_entries),
        (10_000, 5_000)
    );
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!(config.log, LogSettings::default());
    assert_eq!(urls::join(&config.listen.client), "http://localhost:2379");
    assert!(notes.contains(&Note::NameIsDefault));
}

#[test]
fn a_name_alone_names_the_initial_cluster() {
    let config = loaded("--name x --initial-advertise-peer-urls http://10.0.0.1:2380").config;
    assert_eq!(config.cluster.initial_cluster, "x=http://10.0.0.1:2380");
    assert_eq!(config.data_dir, PathBuf::from("x.etcd"));
}

#[test]
fn spellings_and_aliases_of_older_releases_are_understood() {
    let Loaded { config, notes } = loaded(
        "--name m0 --experimental-initial-corrupt-check=true --experimental-watch-progress-notify-interval=5s \
         -snapshot-count 0x10 --quota-backend-bytes=-1 --pre-vote=F --grpc-keepalive-interval 0",
    );
    assert!(config.feature_gates.enabled("InitialCorruptCheck"));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(5));
    assert_eq!(config.snapshot_count, 16);
    assert_eq!(config.cluster.quota_backend_bytes, None);
    assert!(!config.cluster.pre_vote);
    assert_eq!(config.keepalive.interval, None);
    let renamed = notes
        .iter()
        .filter(|note| matches!(note, Note::Renamed { .. }))
        .count();
    assert_eq!(renamed, 2);
}

#[test]
fn the_last_of_a_repeated_flag_counts() {
    assert_eq!(loaded("--name a --name b").config.name, "b");
}

#[test]
fn kubeadms_flags_without_tls_are_accepted() {
    let config = loaded(
        "--name=n1 --feature-gates=InitialCorruptCheck=true --watch-progress-notify-interval=5s \
         --listen-client-urls=http://127.0.0.1:2379,http://10.0.0.1:2379 --advertise-client-urls=http://10.0.0.1:2379 \
         --listen-peer-urls=http://10.0.0.1:2380 --initial-advertise-peer-urls=http://10.0.0.1:2380 \
         --data-dir=/var/lib/etcd --snapshot-count=10000 --listen-metrics-urls=http://127.0.0.1:2381 \
         --initial-cluster=n1=http://10.0.0.1:2380",
    )
    .config;
    assert_eq!(urls::join(&config.listen.metrics), "http://127.0.0.1:2381");
    assert_eq!(config.listen.client.len(), 2);
}

#[test]
fn syntax_errors_end_with_the_usage() {
    for (line, message) in [
        ("--bogus", "flag provided but not defined: -bogus"),
        (
            "--experimental-bogus=1",
            "flag provided but not defined: -experimental-bogus",
        ),
        ("--discovery x", "flag provided but not defined: -discovery"),
        (
            "--snapshot-count=abc",
            "invalid value \"abc\" for flag -snapshot-count: parse error",
        ),
        (
            "--heartbeat-interval=1s",
            "invalid value \"1s\" for flag -heartbeat-interval: parse error",
        ),
        (
            "--heartbeat-interval=-1",
            "invalid value \"-1\" for flag -heartbeat-interval: parse error",
        ),
        (
            "--pre-vote=maybe",
            "invalid boolean value \"maybe\" for -pre-vote: parse error",
        ),
        (
            "--listen-client-urls=foo",
            "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            "--initial-cluster-state=old",
            "invalid value \"old\" for flag -initial-cluster-state: invalid value",
        ),
        (
            "--feature-gates=Bogus=true",
            "invalid value \"Bogus=true\" for flag -feature-gates: unrecognized feature gate: Bogus",
        ),
    ] {
        assert_eq!(
            read(line, &[]).expect_err(line),
            Ending::Syntax(message.to_owned())
        );
    }
    assert_eq!(read("--help", &[]).expect_err("help"), Ending::Help);
    assert_eq!(
        read("--name x --version", &[]).expect_err("version"),
        Ending::Version
    );
}

#[test]
fn contradictions_are_refused_in_etcds_words() {
    for (line, message) in [
        ("stray", "\"stray\" is not a valid flag"),
        ("--pre-vote false", "\"false\" is not a valid flag"),
        (
            "--listen-client-urls http://127.0.0.1:1",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            "--listen-peer-urls http://example.com:1",
            "expected IP in URL for binding (http://example.com:1)",
        ),
        (
            "--heartbeat-interval 0",
            "--heartbeat-interval must be >0 (set to 0ms)",
        ),
        (
            "--election-timeout 0",
            "--election-timeout must be >0 (set to 0ms)",
        ),
        (
            "--heartbeat-interval 300",
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
        ),
        (
            "--election-timeout 60000",
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        ("--auto-compaction-mode x", "unknown auto-compaction-mode \"x\""),
        ("--logger x", "unknown logger option \"x\""),
        ("--logger capnslog", "--logger=capnslog is removed in v3.5"),
        (
            "--listen-client-urls http://127.0.0.1:1 --advertise-client-urls http://127.0.0.1:1 \
             --listen-client-http-urls http://127.0.0.1:1",
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://127.0.0.1:1",
        ),
        (
            "--advertise-client-urls http://:2379",
            "--advertise-client-urls \"http://:2379\" must be in the format \"host:port\", \
             \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host (http://:2379))",
        ),
    ] {
        assert_eq!(refused(line), message);
    }
}

#[test]
fn what_is_not_served_ends_the_start_and_is_named() {
    let message = refused("--force-new-cluster --corrupt-check-time 1h --cors=*");
    assert!(
        message.contains("--force-new-cluster, --corrupt-check-time;")
            || message.contains("--corrupt-check-time, --force-new-cluster;"),
        "{message}"
    );
    for line in [
        "--force-new-cluster",
        "--discovery-srv example.com",
        "--feature-gates SetMemberLocalAddr=true",
        "gateway start",
    ] {
        assert!(refused(line).contains("not served"), "{line}");
    }
}

#[test]
fn retention_is_hours_a_duration_or_revisions() {
    let hour = Duration::from_secs(3600);
    for (line, settings) in [
        ("", None),
        ("--auto-compaction-retention 0", None),
        ("--auto-compaction-retention 0s", None),
        ("--auto-compaction-retention=", None),
        (
            "--auto-compaction-retention 2",
            Some(AutoCompaction::Periodic(2 * hour)),
        ),
        (
            "--auto-compaction-retention 30m",
            Some(AutoCompaction::Periodic(hour / 2)),
        ),
        (
            "--auto-compaction-mode revision --auto-compaction-retention 1000",
            Some(AutoCompaction::Revisions(1000)),
        ),
    ] {
        assert_eq!(loaded(line).config.cluster.auto_compaction, settings, "{line}");
    }
    for (line, message) in [
        (
            "--auto-compaction-retention x",
            "error parsing CompactionRetention: ",
        ),
        (
            "--auto-compaction-mode weekly",
            "unknown auto-compaction-mode \"weekly\"",
        ),
    ] {
        assert!(refused(line).starts_with(message), "{line}: {}", refused(line));
    }
}

#[test]
fn tls_settings_that_cannot_be_meant_are_refused_in_etcds_words() {
    let https = "--listen-client-urls https://127.0.0.1:1 --advertise-client-urls https://127.0.0.1:1";
    for (line, message) in [
        (
            https.to_owned(),
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            "--listen-metrics-urls https://127.0.0.1:1".to_owned(),
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url https://127.0.0.1:1",
        ),
        (
            format!("{https} --cert-file a.pem"),
            "KeyFile and CertFile must both be present[key: , cert: a.pem]",
        ),
        (
            "--tls-min-version TLS1.3 --tls-max-version TLS1.2".to_owned(),
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            "--tls-min-version TLS1.3 --cipher-suites TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned(),
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            "--cipher-suites TLS_RSA_WITH_RC4_128_SHA".to_owned(),
            "none of the cipher suites TLS_RSA_WITH_RC4_128_SHA is spoken by this server",
        ),
    ] {
        assert_eq!(refused(&line), message, "{line}");
    }
}

#[test]
fn tls_settings_that_change_nothing_are_noted() {
    let suites = "TLS_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
    let notes = loaded(&format!(
        "--name m --data-dir d --cert-file a --key-file b --auto-tls --cipher-suites {suites}"
    ))
    .notes;
    assert_eq!(
        notes,
        [
            Note::AutoTlsIgnored { kind: "client" },
            Note::SuitesLeftOut {
                suites: vec!["TLS_RSA_WITH_AES_128_GCM_SHA256".to_owned()],
            },
            Note::CertificateUnused {
                kind: "client",
                url: "http://localhost:2379".to_owned(),
            },
        ]
    );
}

#[test]
fn defaults_may_be_spelt_out() {
    let notes = loaded(
        "--name m --data-dir d --cert-file= --client-cert-auth=false --auto-compaction-retention=0 --cors=* \
         --auto-compaction-mode=periodic --tls-min-version=TLS1.2 --force-new-cluster=false --bcrypt-cost=10",
    )
    .notes;
    assert_eq!(notes, []);
    assert_eq!(
        loaded("--name m --data-dir d --auto-compaction-retention=0s").notes,
        []
    );
}

#[test]
fn settings_without_effect_are_named_in_the_log() {
    let notes =
        loaded("--name m --data-dir d --max-snapshots 7 --backend-bbolt-freelist-type array --v").notes;
    let settings: Vec<String> = notes
        .iter()
        .map(|note| match note {
            Note::WithoutEffect { setting, .. } => setting.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        settings,
        ["--max-snapshots", "--backend-bbolt-freelist-type", "--v"]
    );
}

#[test]
fn variables_are_settings_unless_empty_or_unknown() {
    let environment = [
        ("ETCD_NAME", "e"),
        ("ETCD_DATA_DIR", ""),
        ("ETCD_ON_K8S", "yes"),
        ("ETCD_VERSION", "3.5.9"),
        ("ETCD_UNSUPPORTED_ARCH", "arm"),
        ("ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "true"),
        ("PATH", "/bin"),
    ];
    let Loaded { config, notes } = read("--data-dir d", &environment).expect("valid");
    assert_eq!(config.name, "e");
    assert_eq!(config.data_dir, PathBuf::from("d"));
    assert!(config.feature_gates.enabled("InitialCorruptCheck"));
    let unknown: Vec<&Note> = notes
        .iter()
        .filter(|note| matches!(note, Note::VariableUnknown { .. }))
        .collect();
    assert_eq!(
        unknown,
        [
            &Note::VariableUnknown {
                name: "ETCD_ON_K8S".into()
            },
            &Note::VariableUnknown {
                name: "ETCD_VERSION".into()
            }
        ]
    );
}

#[test]
fn a_variable_beside_its_flag_is_fatal_even_when_equal() {
    let shadowed = Ending::Shadowed {
        variable: "ETCD_NAME".into(),
    };
    assert_eq!(
        read("--name e", &[("ETCD_NAME", "e")]).expect_err("both"),
        shadowed
    );
}

#[test]
fn a_bad_variable_is_refused_with_its_name() {
    assert_eq!(
        read("", &[("ETCD_SNAPSHOT_COUNT", "abc")]).expect_err("bad"),
        Ending::Invalid("invalid value \"abc\" for ETCD_SNAPSHOT_COUNT: parse error".into())
    );
}

#[test]
fn localhost_is_not_advertised_from_an_unspecified_address() {
    let Loaded { config, notes } = loaded("--name m --listen-peer-urls http://0.0.0.0:2380");
    assert_eq!(
        urls::join(&config.cluster.advertise_peer_urls),
        "http://10.0.0.7:2380"
    );
    assert_eq!(config.cluster.initial_cluster, "m=http://10.0.0.7:2380");
    assert!(notes.contains(&Note::HostDetected {
        host: "10.0.0.7".into()
    }));
    let config = loaded("--listen-peer-urls http://127.0.0.1:2380").config;
    assert_eq!(
        urls::join(&config.cluster.advertise_peer_urls),
        "http://localhost:2380"
    );
}

#[test]
fn log_settings_are_read() {
    let config =
        loaded("--log-outputs=stderr,/tmp/x.log,stderr --log-level=panic --log-format=console").config;
    assert_eq!(
        config.log,
        LogSettings {
            level: LogLevel::Fatal,
            format: LogFormat::Console,
            outputs: vec![LogOutput::Stderr, LogOutput::File("/tmp/x.log".into())],
        }
    );
    for line in [
        "--log-outputs default,stderr",
        "--log-level loud",
        "--log-format xml",
    ] {
        refused(line);
    }
}

/// A directory with the file, and the arguments that name it.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kelson.yaml");
    std::fs::write(&path, text).unwrap();
    (directory, format!("--config-file {}", path.display()))
}

#[test]
fn flags_go_before_variables_and_variables_before_the_file() {
    let (_directory, line) = file(
        "name: of-the-file\nmax-txn-ops: 7\nheartbeat-interval: 50\nexperimental-warning-apply-duration: 5000000\n\
         proxy: 'off'\npeer-transport-security:\n  peer: none\n",
    );
    let line = format!("{line} --heartbeat-interval 20");
    let Loaded { config, notes } = read(&line, &[("ETCD_MAX_TXN_OPS", "8")]).unwrap();
    assert_eq!(config.name, "of-the-file");
    assert_eq!(config.limits.max_txn_ops, 8);
    assert_eq!(config.cluster.heartbeat, Duration::from_millis(20));
    assert_eq!(config.warning_apply_duration, Duration::from_millis(5));
    let named = |key: &str| Note::FileKeyUnknown { key: key.to_owned() };
    assert!(notes.contains(&named("proxy")) && notes.contains(&named("peer-transport-security.peer")));
    let used = notes.iter().filter_map(|note| match note {
        Note::FileSettingUsed { key, .. } => Some(key.as_str()),
        _ => None,
    });
    assert_eq!(
        used.collect::<Vec<_>>(),
        ["name", "experimental-warning-apply-duration"]
    );
}

#[test]
fn the_file_can_be_named_by_a_variable() {
    let (_directory, line) = file("name: one\n");
    let path = line.rsplit_once(' ').unwrap().1;
    let loaded = read("", &[("ETCD_CONFIG_FILE", path)]).unwrap();
    assert_eq!(loaded.config.name, "one");
}

/// What etcd ships as an example, some of whose keys it has dropped itself.
#[test]
fn a_file_that_spells_out_what_is_usual_starts_a_member() {
    let (_directory, line) = file(
        "name: 'default'\ndata-dir:\nwal-dir:\nsnapshot-count: 10000\nheartbeat-interval: 100\n\
         election-timeout: 1000\nquota-backend-bytes: 0\nlisten-peer-urls: http://localhost:2380\n\
         listen-client-urls: http://localhost:2379\nmax-snapshots: 5\nmax-wals: 5\ncors:\n\
         initial-advertise-peer-urls: http://localhost:2380\nadvertise-client-urls: http://localhost:2379\n\
         discovery:\ndiscovery-srv:\ninitial-cluster:\ninitial-cluster-token: 'etcd-cluster'\n\
         initial-cluster-state: 'new'\nproxy: 'off'\nproxy-dial-timeout: 1000\nclient-transport-security:\n\
         \x20 cert-file:\n  client-cert-auth: false\n  auto-tls: false\nself-signed-cert-validity: 1\nlog-level: debug\n\
         logger: zap\nlog-outputs: [stderr]\nforce-new-cluster: false\nauto-compaction-mode: periodic\n\
         auto-compaction-retention: \"1\"\n",
    );
    let Loaded { config, .. } = loaded(&line);
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(
        config.cluster.auto_compaction,
        Some(AutoCompaction::Periodic(Duration::from_secs(3600)))
    );
}

#[test]
fn a_file_that_cannot_be_used_ends_the_start_and_is_named() {
    assert!(refused("--config-file /nowhere/k.yaml").contains("/nowhere/k.yaml: No such file"));
    for (text, cause) in [
        ("max-txn-ops: many\n", "invalid value \"many\" for max-txn-ops"),
        ("name: [\n", "kelson.yaml: "),
        ("force-new-cluster: true\n", "not served"),
    ] {
        let (_directory, line) = file(text);
        let message = refused(&line);
        assert!(message.contains(cause), "{message}");
    }
}
