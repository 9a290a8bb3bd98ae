//! Every error a client can see: its name, its gRPC code and its exact text, in one table.
//!
//! Clients of etcd tell errors apart by their text, so a text never changes and is never decorated. What other
//! crates say ([`Rejected`], [`ProposeError`], ...) is turned into a row of this table here and nowhere else. A fault is
//! no answer, so there is no row for it: the services report it, and the client is told that the server stops.

use std::borrow::Cow;
use std::fmt;

use kelson_raft::node::{AskLeaderError, ProposeError, ReadIndexError, TransferError};
use kelson_storage::error::Rejected;
use kelson_storage::mutant;

use crate::lease::LeaseError;

/// A gRPC status code (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>); the number is the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// The caller went away.
    Canceled = 1,
    /// Anything etcd has no code for.
    Unknown = 2,
    /// The request can never succeed.
    InvalidArgument = 3,
    /// The caller's time ran out.
    DeadlineExceeded = 4,
    /// What was named does not exist.
    NotFound = 5,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A quota or a size limit.
    ResourceExhausted = 8,
    /// The state of the cluster forbids it.
    FailedPrecondition = 9,
    /// A revision outside of what is kept.
    OutOfRange = 11,
    /// No such method, or not offered by this server.
    Unimplemented = 12,
    /// The request could not be read.
    Internal = 13,
    /// Transient; Go clients retry many calls on it.
    Unavailable = 14,
    /// The data cannot be trusted.
    DataLoss = 15,
    /// The token is not valid.
    Unauthenticated = 16,
}

impl Code {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

macro_rules! client_errors {
    ($($(#[$doc:meta])* $name:ident, $code:ident, $text:literal;)*) => {
        /// What a client is told when a call fails.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum ClientError {
            $($(#[$doc])* $name,)*
            /// An error outside of etcd's table, e.g. from the gRPC layer itself.
            Other {
                /// Its code.
                code: Code,
                /// Its text, whole.
                text: Cow<'static, str>,
            },
        }

        impl ClientError {
            /// Every row of the table.
            pub const TABLE: &'static [ClientError] = &[$(ClientError::$name,)*];

            /// The gRPC code.
            pub fn code(&self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)*
                    Self::Other { code, .. } => *code,
                }
            }

            /// The text, as it goes over the wire (before gRPC's percent encoding).
            pub fn text(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other { text, .. } => text,
                }
            }

            /// The name of the row, as the API specification (11.1) lists it.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    Self::Other { .. } => "Other",
                }
            }
        }
    };
}

client_errors! {
    /// An empty key in a range, put, delete, compare or nested operation.
    EmptyKey, InvalidArgument, "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` on an absent key; a transaction operation that is not set.
    KeyNotFound, InvalidArgument, "etcdserver: key not found";
    /// `ignore_value` together with a value.
    ValueProvided, InvalidArgument, "etcdserver: value is provided";
    /// `ignore_lease` together with a lease.
    LeaseProvided, InvalidArgument, "etcdserver: lease is provided";
    /// More than `--max-txn-ops` operations.
    TooManyOps, InvalidArgument, "etcdserver: too many operations in txn request";
    /// One key changed twice by one transaction.
    DuplicateKey, InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// The metadata `client-api-version` is not UTF-8.
    InvalidClientApiVersion, InvalidArgument, "etcdserver: invalid client api version";
    /// An enum number of a sort order or target that does not exist.
    InvalidSortOption, InvalidArgument, "etcdserver: invalid sort option";
    /// A read below the compact revision, or a compaction at or below it.
    Compacted, OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// A revision above the store's.
    FutureRevision, OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The quota is used up, or a NOSPACE alarm is active.
    NoSpace, ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// No such lease.
    LeaseNotFound, NotFound, "etcdserver: requested lease not found";
    /// A grant with an id in use.
    LeaseExist, FailedPrecondition, "etcdserver: lease already exists";
    /// A TTL above 9,000,000,000 s.
    LeaseTtlTooLarge, OutOfRange, "etcdserver: too large lease TTL";
    /// A watch stream that its client cancelled.
    WatchCanceled, Canceled, "etcdserver: watch canceled";
    /// A member id in use.
    MemberExist, FailedPrecondition, "etcdserver: member ID already exist";
    /// A peer URL of another member.
    PeerUrlExist, FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// The change would leave too few started members. etcd sends Unknown by mistake; Go clients read the text.
    MemberNotEnoughStarted, FailedPrecondition,
        "etcdserver: re-configuration failed due to not enough started members";
    /// Peer URLs that are none.
    MemberBadUrls, InvalidArgument, "etcdserver: given member URLs are invalid";
    /// An unknown or removed member id.
    MemberNotFound, NotFound, "etcdserver: member not found";
    /// Promotion of a voter.
    MemberNotLearner, FailedPrecondition, "etcdserver: can only promote a learner member";
    /// Promotion of a learner that is behind.
    LearnerNotReady, FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader";
    /// More learners than `--max-learners`.
    TooManyLearners, FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// A peer of another cluster.
    ClusterIdMismatch, FailedPrecondition, "etcdserver: cluster ID mismatch";
    /// A command above `--max-request-bytes`.
    RequestTooLarge, InvalidArgument, "etcdserver: request is too large";
    /// Too many commands are waiting. etcd sends Unknown by mistake; Go clients read the text.
    TooManyRequests, ResourceExhausted, "etcdserver: too many requests";
    /// Authentication cannot be enabled without a user `root`.
    RootUserNotExist, FailedPrecondition, "etcdserver: root user does not exist";
    /// Authentication cannot be enabled unless the user `root` has the role `root`.
    RootRoleNotExist, FailedPrecondition, "etcdserver: root user does not have root role";
    /// A user of that name exists.
    UserAlreadyExist, FailedPrecondition, "etcdserver: user name already exists";
    /// No user name, or no credentials while authentication is on.
    UserEmpty, InvalidArgument, "etcdserver: user name is empty";
    /// No such user.
    UserNotFound, FailedPrecondition, "etcdserver: user name not found";
    /// A role of that name exists.
    RoleAlreadyExist, FailedPrecondition, "etcdserver: role name already exists";
    /// No such role.
    RoleNotFound, FailedPrecondition, "etcdserver: role name not found";
    /// No role name.
    RoleEmpty, InvalidArgument, "etcdserver: role name is empty";
    /// Wrong user or password.
    AuthFailed, InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    /// A grant without a permission.
    PermissionNotGiven, InvalidArgument, "etcdserver: permission not given";
    /// The user may not do this.
    PermissionDenied, PermissionDenied, "etcdserver: permission denied";
    /// The user does not have the role.
    RoleNotGranted, FailedPrecondition, "etcdserver: role is not granted to the user";
    /// The role does not have the permission.
    PermissionNotGranted, FailedPrecondition, "etcdserver: permission is not granted to the role";
    /// Authentication is off. Go clients with a password expect this one at start and carry on.
    AuthNotEnabled, FailedPrecondition, "etcdserver: authentication is not enabled";
    /// An unknown or expired token.
    InvalidAuthToken, Unauthenticated, "etcdserver: invalid auth token";
    /// A change that would lock everybody out, or a permission on an impossible range.
    InvalidAuthMgmt, InvalidArgument, "etcdserver: invalid auth management";
    /// The credentials are older than the newest change of users or roles.
    AuthOldRevision, InvalidArgument, "etcdserver: revision of auth store is old";
    /// No leader, and the call said that it needs one.
    NoLeader, Unavailable, "etcdserver: no leader";
    /// Only the leader does this.
    NotLeader, FailedPrecondition, "etcdserver: not leader";
    /// The leader changed during the call.
    LeaderChanged, Unavailable, "etcdserver: leader changed";
    /// The cluster does not speak this version of the API.
    NotCapable, FailedPrecondition, "etcdserver: not capable";
    /// This member is stopping, or has failed and will.
    Stopped, Unavailable, "etcdserver: server stopped";
    /// Not finished in time; a write may still happen.
    Timeout, Unavailable, "etcdserver: request timed out";
    /// As `Timeout`, around the loss of a leader.
    TimeoutDueToLeaderFail, Unavailable,
        "etcdserver: request timed out, possibly due to previous leader failure";
    /// As `Timeout`, and the leader was out of reach all the time.
    TimeoutDueToConnectionLost, Unavailable,
        "etcdserver: request timed out, possibly due to connection lost";
    /// This member's apply lags too far behind.
    TimeoutWaitAppliedIndex, Unavailable,
        "etcdserver: request timed out, waiting for the applied index took too long";
    /// Too few members are connected for a membership change.
    Unhealthy, Unavailable, "etcdserver: unhealthy cluster";
    /// A CORRUPT alarm is active.
    Corrupt, DataLoss, "etcdserver: corrupt cluster";
    /// A learner does not answer this.
    NotSupportedForLearner, FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// Leadership cannot go to that member.
    BadLeaderTransferee, FailedPrecondition, "etcdserver: bad leader transferee";
    /// A downgrade target that is no version.
    WrongDowngradeVersionFormat, InvalidArgument, "etcdserver: wrong downgrade target version format";
    /// A downgrade target that is not one minor version below.
    InvalidDowngradeTargetVersion, InvalidArgument, "etcdserver: invalid downgrade target version";
    /// The cluster has not agreed on a version.
    ClusterVersionUnavailable, FailedPrecondition,
        "etcdserver: cluster version not found during downgrade";
    /// A downgrade is running.
    DowngradeInProcess, FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    /// No downgrade is running.
    NoInflightDowngrade, FailedPrecondition, "etcdserver: no inflight downgrade job";
    /// The client of a forwarded request went away.
    RequestCanceled, Canceled, "etcdserver: request canceled";
    /// Defined by etcd; its replies carry `ContextDeadlineExceeded`.
    DeadlineExceeded, DeadlineExceeded, "etcdserver: context deadline exceeded";
    /// A write for which no leader was known until the deadline: it entered no log.
    ContextDeadlineExceeded, DeadlineExceeded, "context deadline exceeded";
    /// The caller went away.
    ContextCanceled, Canceled, "context canceled";
    /// Leadership did not move in time.
    LeaderTransferTimeout, Unknown, "etcdserver: request timed out, leader transfer took too long";
    /// A leader that cannot prove that it still is one was asked about a lease.
    NotPrimaryLessor, Unknown, "not a primary lessor";
    /// The election key is gone or somebody else's.
    ElectionNotLeader, Unknown, "election: not leader";
    /// Nobody campaigns.
    ElectionNoLeader, Unknown, "election: no leader";
    /// The lease of a waiting lock or candidate has ended.
    SessionExpired, Unknown, "mutex: session is expired";
    /// A request about an election without its leader key.
    LeaderKeyMissing, Unknown, "\"leader\" field must be provided";
    /// A custom sort order in a range stream.
    RangeStreamSort, Unimplemented, "RangeStream does not support custom sort orders";
    /// A revision filter in a range stream.
    RangeStreamFilter, Unimplemented, "RangeStream does not support revision filters";
    /// An alarm action or kind that does not exist. etcd's handler misbehaves on it, so this text is ours.
    InvalidAlarm, InvalidArgument, "etcdserver: invalid alarm request";
    /// A health check of a service that has none.
    UnknownService, NotFound, "unknown service";
}

impl ClientError {
    /// An error outside of the table.
    pub fn other(code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        Self::Other {
            code,
            text: text.into(),
        }
    }

    /// A part of the API that this server does not offer.
    pub fn unimplemented(what: &'static str) -> Self {
        Self::other(Code::Unimplemented, what)
    }

    /// The error as etcd's lock and election services report it: the text alone, except for context errors
    /// (API specification 13.2).
    #[must_use]
    pub fn without_code(self) -> Self {
        match self {
            Self::ContextCanceled | Self::ContextDeadlineExceeded => self,
            table => Self::Other {
                code: Code::Unknown,
                text: Cow::Owned(table.text().to_owned()),
            },
        }
    }

    /// The row with this text; how a refusal that crossed the wire between members is recognised.
    pub fn from_text(text: &str) -> Self {
        Self::TABLE
            .iter()
            .find(|row| row.text() == text)
            .cloned()
            .unwrap_or_else(|| Self::other(Code::Unknown, text.to_owned()))
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ClientError {}

impl From<Rejected> for ClientError {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Compacted => Self::Compacted,
            Rejected::FutureRevision => Self::FutureRevision,
            Rejected::KeyNotFound => Self::KeyNotFound,
            Rejected::LeaseNotFound => Self::LeaseNotFound,
            Rejected::LeaseExists => Self::LeaseExist,
            Rejected::LeaseTtlTooLarge => Self::LeaseTtlTooLarge,
            Rejected::NoSpace => Self::NoSpace,
            Rejected::Corrupt => Self::Corrupt,
            Rejected::MemberNotFound => Self::MemberNotFound,
            // Only expiry proposes a revoke with a term, and nobody waits for its answer over gRPC.
            Rejected::ExpiryStale => Self::NotPrimaryLessor,
            // The outcome of the first copy is lost, and whether it happened is unknown: what a timeout says.
            Rejected::Duplicate => Self::Timeout,
            other => Self::other(Code::Unknown, other.to_string()),
        }
    }
}

impl From<ProposeError> for ClientError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::TooLarge => Self::RequestTooLarge,
            ProposeError::TooManyRequests => Self::TooManyRequests,
            ProposeError::NoLeader => Self::ContextDeadlineExceeded,
            // M42: who cannot know is told that nothing happened.
            ProposeError::Timeout | ProposeError::TimeoutLeaderFailed if mutant!("M42") => {
                Self::TooManyRequests
            }
            ProposeError::Timeout => Self::Timeout,
            ProposeError::TimeoutLeaderFailed => Self::TimeoutDueToLeaderFail,
            ProposeError::TimeoutConnectionLost => Self::TimeoutDueToConnectionLost,
            ProposeError::Stopped => Self::Stopped,
        }
    }
}

impl From<ReadIndexError> for ClientError {
    fn from(error: ReadIndexError) -> Self {
        match error {
            ReadIndexError::Timeout => Self::Timeout,
            ReadIndexError::LeaderChanged => Self::LeaderChanged,
            ReadIndexError::Stopped => Self::Stopped,
        }
    }
}

impl From<AskLeaderError> for ClientError {
    fn from(error: AskLeaderError) -> Self {
        match error {
            AskLeaderError::NoLeader => Self::NoLeader,
            AskLeaderError::Refused(text) => Self::from_text(&text),
            AskLeaderError::Stopped => Self::Stopped,
        }
    }
}

impl From<TransferError> for ClientError {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::NotLeader => Self::NotLeader,
            TransferError::BadTransferee => Self::BadLeaderTransferee,
            TransferError::Timeout => Self::LeaderTransferTimeout,
        }
    }
}

impl From<LeaseError> for ClientError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::NoLeader => Self::NoLeader,
            LeaseError::ApplyTimeout => Self::TimeoutWaitAppliedIndex,
            LeaseError::Timeout => Self::Timeout,
            LeaseError::NotPrimary => Self::NotPrimaryLessor,
            LeaseError::Stopped => Self::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn rows_are_told_apart_by_name_and_text() {
        let names: HashSet<_> = ClientError::TABLE.iter().map(ClientError::name).collect();
        let texts: HashSet<_> = ClientError::TABLE.iter().map(ClientError::text).collect();
        assert_eq!(names.len(), ClientError::TABLE.len());
        assert_eq!(texts.len(), ClientError::TABLE.len());
        for row in ClientError::TABLE {
            assert_eq!(&ClientError::from_text(row.text()), row);
        }
    }

    #[test]
    fn codes_of_texts_that_go_clients_compare() {
        // Spelled out again on purpose: these come from etcd's api/v3rpc/rpctypes, not from the table above.
        let expected = [
            (3, "etcdserver: key is not provided"),
            (3, "etcdserver: duplicate key given in txn request"),
            (11, "etcdserver: mvcc: required revision has been compacted"),
            (11, "etcdserver: mvcc: required revision is a future revision"),
            (8, "etcdserver: mvcc: database space exceeded"),
            (5, "etcdserver: requested lease not found"),
            (9, "etcdserver: lease already exists"),
            (9, "etcdserver: Peer URLs already exists"),
            (3, "etcdserver: request is too large"),
            (9, "etcdserver: authentication is not enabled"),
            (14, "etcdserver: no leader"),
            (14, "etcdserver: leader changed"),
            (14, "etcdserver: server stopped"),
            (14, "etcdserver: request timed out"),
            (15, "etcdserver: corrupt cluster"),
            (9, "etcdserver: rpc not supported for learner"),
            (4, "context deadline exceeded"),
        ];
        for (number, text) in expected {
            assert_eq!(ClientError::from_text(text).code().number(), number, "{text}");
        }
    }

    #[test]
    fn a_command_that_may_still_happen_is_never_answered_as_one_that_did_not() {
        let in_doubt = [
            ProposeError::Timeout,
            ProposeError::TimeoutLeaderFailed,
            ProposeError::TimeoutConnectionLost,
            ProposeError::Stopped,
        ];
        for error in in_doubt {
            let answer = ClientError::from(error.clone());
            assert_eq!(answer.code(), Code::Unavailable, "{error}: {}", answer.text());
        }
    }

    #[test]
    fn unknown_text_keeps_its_words() {
        let error = ClientError::from_text("raft proposal dropped");
        assert_eq!(error.code(), Code::Unknown);
        assert_eq!(error.text(), "raft proposal dropped");
    }

    #[test]
    fn lock_and_election_errors_lose_their_code_but_context_errors_do_not() {
        let lost = ClientError::LeaseNotFound.without_code();
        assert_eq!(
            (lost.code(), lost.text()),
            (Code::Unknown, "etcdserver: requested lease not found")
        );
        assert_eq!(ClientError::ContextCanceled.without_code().code(), Code::Canceled);
    }
}
