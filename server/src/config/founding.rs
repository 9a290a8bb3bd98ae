//! Who founds the cluster: `--initial-cluster` read and checked, and the ids that follow from it.
//!
//! Only a member without data asks; a member with data knows its cluster from its disk, and its flags may have become
//! outdated long ago.

use std::collections::BTreeMap;

use kelson_raft::node::BootstrapMember;

use super::urls::{self, Url};
use super::{ClusterSettings, identity};

/// A cluster to be founded, as one of its members sees it. All members compute the same ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// This member.
    pub member_id: u64,
    /// The cluster.
    pub cluster_id: u64,
    /// All founding members, by id.
    pub members: Vec<BootstrapMember>,
}

type UrlsByName = BTreeMap<String, Vec<Url>>;

impl Founding {
    /// Reads the flags of the member called `name`. Errors are etcd's texts.
    pub fn new(name: &str, cluster: &ClusterSettings) -> Result<Self, String> {
        let by_name = parse(&cluster.initial_cluster)
            .map_err(|cause| format!("error setting up initial cluster: {cause}"))?;
        if by_name.is_empty() {
            return Err("initial cluster unset and no discovery endpoints found".into());
        }
        let own = by_name.get(name).ok_or_else(|| {
            format!("couldn't find local name {name:?} in the initial cluster configuration")
        })?;
        check_duplicates(&by_name)?;
        check_own(name, own, &cluster.advertise_peer_urls)?;
        if let Some(url) = by_name.values().flatten().find(|url| !url.is_tcp()) {
            return Err(format!(
                "members do not talk over Unix sockets: --initial-cluster has {url}"
            ));
        }
        let mut members: Vec<BootstrapMember> = by_name
            .values()
            .map(|peer_urls| BootstrapMember {
                id: identity::member_id(peer_urls, &cluster.token),
                peer_urls: peer_urls.iter().map(Url::to_string).collect(),
            })
            .collect();
        members.sort_by_key(|member| member.id);
        let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
        Ok(Self {
            member_id: identity::member_id(own, &cluster.token),
            cluster_id: identity::cluster_id(&ids),
            members,
        })
    }
}

/// `name=url,...`; a name that comes again adds a URL.
fn parse(text: &str) -> Result<UrlsByName, String> {
    let mut by_name: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for entry in text.split(',').filter(|entry| !entry.is_empty()) {
        let (name, url) = entry.split_once('=').unwrap_or((entry, ""));
        by_name.entry(name.trim().to_owned()).or_default().push(url);
    }
    by_name
        .into_iter()
        .map(|(name, urls)| Ok((name, Url::parse_list(&urls.join(","))?)))
        .collect()
}

fn render(by_name: &UrlsByName) -> String {
    let pairs: Vec<String> = by_name
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
        .collect();
    pairs.join(",")
}

fn check_duplicates(by_name: &UrlsByName) -> Result<(), String> {
    let mut all: Vec<&Url> = by_name.values().flatten().collect();
    all.sort();
    if all.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(format!("initial cluster {} has duplicate url", render(by_name)));
    }
    Ok(())
}

/// What the cluster says of this member must be what it says of itself, as text or once names are resolved.
fn check_own(name: &str, in_cluster: &[Url], advertised: &[Url]) -> Result<(), String> {
    if in_cluster == advertised || resolved(in_cluster).is_some_and(|some| resolved(advertised) == Some(some))
    {
        return Ok(());
    }
    let pairs = |urls: &[&Url]| -> String {
        let pairs: Vec<String> = urls.iter().map(|url| format!("{name}={url}")).collect();
        pairs.join(",")
    };
    let missing: Vec<&Url> = in_cluster
        .iter()
        .filter(|url| !advertised.contains(url))
        .collect();
    if !missing.is_empty() {
        return Err(format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
            pairs(&missing),
            urls::join(advertised)
        ));
    }
    let missing: Vec<&str> = advertised
        .iter()
        .filter(|url| !in_cluster.contains(url))
        .map(Url::as_str)
        .collect();
    Err(format!(
        "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
        missing.join(","),
        pairs(&in_cluster.iter().collect::<Vec<_>>())
    ))
}

/// All addresses behind `urls`; none when a name does not resolve.
fn resolved(urls: &[Url]) -> Option<Vec<std::net::SocketAddr>> {
    let mut addresses = Vec::new();
    for url in urls {
        addresses.extend(url.resolve().ok()?);
    }
    addresses.sort();
    Some(addresses)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings(initial_cluster: &str, advertised: &str) -> ClusterSettings {
        ClusterSettings {
            initial_cluster: initial_cluster.to_owned(),
            token: "etcd-cluster".to_owned(),
            joins_existing: false,
            advertise_peer_urls: Url::parse_list(advertised).expect("valid"),
            heartbeat: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            pre_vote: true,
            auto_compaction: None,
            quota_backend_bytes: None,
        }
    }

    #[test]
    fn a_single_member_gets_etcds_ids() {
        let settings = settings("default=http://localhost:2380", "http://localhost:2380");
        let founding = Founding::new("default", &settings).expect("valid");
        assert_eq!(format!("{:x}", founding.member_id), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", founding.cluster_id), "cdf818194e3a8c32");
        assert_eq!(founding.members.len(), 1);
    }

    #[test]
    fn all_members_compute_the_same_cluster_whatever_the_order() {
        let a = settings(
            "a=http://127.0.0.1:1,b=http://127.0.0.1:2,b=http://127.0.0.1:3",
            "http://127.0.0.1:1",
        );
        let b = settings(
            "b=http://127.0.0.1:3,b=http://127.0.0.1:2,a=http://127.0.0.1:1",
            "http://127.0.0.1:2,http://127.0.0.1:3",
        );
        let a = Founding::new("a", &a).expect("valid");
        let b = Founding::new("b", &b).expect("valid");
        assert_eq!((a.cluster_id, &a.members), (b.cluster_id, &b.members));
        assert_ne!(a.member_id, b.member_id);
    }

    #[test]
    fn contradictions_are_refused_in_etcds_words() {
        for (cluster, advertised, message) in [
            (
                "",
                "http://127.0.0.1:1",
                "initial cluster unset and no discovery endpoints found",
            ),
            (
                "b=http://127.0.0.1:1",
                "http://127.0.0.1:1",
                "couldn't find local name \"a\" in the initial cluster configuration",
            ),
            (
                "a=http://127.0.0.1:1,b=http://127.0.0.1:1",
                "http://127.0.0.1:1",
                "initial cluster a=http://127.0.0.1:1,b=http://127.0.0.1:1 has duplicate url",
            ),
            (
                "a=http://127.0.0.1:1",
                "http://127.0.0.1:2",
                "--initial-cluster has a=http://127.0.0.1:1 but missing from \
                 --initial-advertise-peer-urls=http://127.0.0.1:2",
            ),
            (
                "a=http://127.0.0.1:1",
                "http://127.0.0.1:1,http://127.0.0.1:2",
                "--initial-advertise-peer-urls has http://127.0.0.1:2 but missing from \
                 --initial-cluster=a=http://127.0.0.1:1",
            ),
            (
                "a",
                "http://127.0.0.1:1",
                "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
            ),
        ] {
            let error = Founding::new("a", &settings(cluster, advertised)).expect_err(cluster);
            assert_eq!(error, message);
        }
    }

    #[test]
    fn names_that_resolve_to_the_same_address_agree() {
        let settings = settings("a=http://127.0.0.1:1", "http://127.0.0.1:01");
        assert!(Founding::new("a", &settings).is_ok());
    }
}
