//! What an error of etcd, or of the way to it, means, and what to do about it.

use std::error::Error as _;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::store::Error;

/// How long the search for the cause of a silence may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The gRPC status codes of a refusal (`google.golang.org/grpc/codes`): invalid argument, permission denied, resource
/// exhausted, failed precondition, unauthenticated.
const REFUSALS: [i32; 5] = [3, 7, 8, 9, 16];

/// The complaints that say nothing about whether the write happens: etcd applies a transaction, and then finds its quota exceeded
/// (`etcd: server/etcdserver/apply/apply.go`, `quotaApplierV3`).
const TIMED_OUT: &str = "request timed out";
const NO_SPACE: &str = "database space exceeded";

/// What a learner, which follows its cluster and has no vote yet, says to everything.
const LEARNER: &str = "not supported for learner";

/// What etcd says (`etcd: etcdserver/api/v3rpc/rpctypes/error.go`), whether it is for the caller to change, and how.
const ADVICE: [(&str, bool, &str); 12] = [
    ("permission denied", true, "grant the role of ETCD_USERNAME readwrite on the prefixes /calico/ and /tortie/"),
    ("authentication failed", true, "check ETCD_USERNAME and ETCD_PASSWORD"),
    (
        "user name is empty",
        true,
        "etcd asks for a user: set ETCD_USERNAME and ETCD_PASSWORD; check ETCD_USERNAME, ETCD_PASSWORD",
    ),
    ("authentication is not enabled", true, "unset ETCD_USERNAME and ETCD_PASSWORD, or enable it: etcdctl auth enable"),
    ("request is too large", true, "etcd takes no object above its --max-request-bytes (1.5 MiB unless set)"),
    ("larger than max", true, "etcd takes no object above its --max-request-bytes (1.5 MiB unless set)"),
    ("too many operations in txn", true, "start etcd with a larger --max-txn-ops (128 unless set)"),
    (
        NO_SPACE,
        false,
        "compact and defragment etcd (etcdctl compact, etcdctl defrag), then etcdctl alarm disarm; --quota-backend-bytes sets \
         the limit",
    ),
    (
        "no leader",
        false,
        "this member has lost the majority of its cluster: check the other members and the network between them",
    ),
    (LEARNER, false, "this member is a learner: etcdctl member promote, or take it out of ETCD_ENDPOINTS"),
    (TIMED_OUT, false, "etcd is too slow or has lost its majority: check its disk and the other members"),
    ("too many requests", false, "etcd is overloaded: see the sizing in the guide to etcd"),
];

/// What is left to say where the server's alert was overtaken by the end of its connection.
const CLOSED: &str = "etcd ended the connection: it may ask for a client certificate (ETCD_CERT_FILE, ETCD_KEY_FILE), not take \
                      this one, or not run";

/// What a failed handshake says (`rustls: src/error.rs`), and what it means here.
const TLS_ADVICE: [(&str, &str); 7] = [
    ("connection closed", CLOSED),
    ("broken pipe", CLOSED),
    ("not valid for name", "the server's certificate does not name the host of ETCD_ENDPOINTS"),
    ("Expired", "the server's certificate has expired"),
    (
        "invalid peer certificate",
        "the server's certificate was not issued by the CA of ETCD_CA_CERT_FILE or, where that is not set, by one that this system \
         trusts",
    ),
    ("CertificateRequired", "etcd asks for a client certificate: set ETCD_CERT_FILE and ETCD_KEY_FILE"),
    (
        "fatal alert",
        "etcd does not take the client certificate of ETCD_CERT_FILE: its CA (--trusted-ca-file) must have issued it",
    ),
];

/// The error for a request that failed.
pub(super) async fn error(endpoints: &[String], doing: &str, error: &etcd_client::Error) -> Error {
    let message = text(error);
    let Some((_, said)) = status(error) else {
        return Error::Unavailable(format!("{}: cannot {doing}: {message}", describe(endpoints)));
    };
    if said.contains("has been compacted") {
        return Error::Compacted(0);
    }
    if !is_etcds(said) {
        return unreachable(endpoints, &message).await;
    }
    refused(endpoints, doing, said)
}

/// The error for what etcd itself refused.
pub(super) fn refused(endpoints: &[String], doing: &str, said: &str) -> Error {
    let etcd = describe(endpoints);
    match ADVICE.iter().find(|(words, ..)| said.contains(words)) {
        Some((_, true, advice)) => Error::Invalid(format!("{etcd}: cannot {doing}: {said}; {advice}")),
        Some((_, false, advice)) => Error::Unavailable(format!("{etcd}: cannot {doing}: {said}; {advice}")),
        None => Error::Unavailable(format!("{etcd}: cannot {doing}: {said}")),
    }
}

/// Whether another member may do better.
pub(super) fn is_members(error: &etcd_client::Error) -> bool {
    match status(error) {
        Some((_, said)) => {
            let is_no_working_member = ["no leader", TIMED_OUT, "server stopped", "leader changed", LEARNER];
            !is_etcds(said) || is_no_working_member.iter().any(|words| said.contains(words))
        }
        // The stream was closed, the connection could not be made.
        None => true,
    }
}

/// Whether the member certainly did not take the request, so that another can be asked.
pub(super) fn is_not_taken(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    let mut source = status.source();
    while let Some(cause) = source {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        source = cause.source();
    }
    ["etcdserver: no leader", "etcdserver: rpc not supported for learner"]
        .iter()
        .any(|words| status.message().contains(words))
}

/// Whether a write certainly did not happen. etcd's gRPC proxy passes the words on, and not always the code.
pub(super) fn is_not_applied(error: &etcd_client::Error) -> bool {
    let is_refused = |(code, said): (i32, &str)| {
        let is_open = [TIMED_OUT, NO_SPACE].iter().any(|words| said.contains(words));
        let is_known = ADVICE.iter().any(|(words, ..)| said.contains(words));
        is_etcds(said) && !is_open && (REFUSALS.contains(&code) || is_known)
    };
    is_not_taken(error) || status(error).is_some_and(is_refused)
}

/// Whether users or roles have changed since the login.
pub(super) fn is_old_login(error: &etcd_client::Error) -> bool {
    status(error)
        .is_some_and(|(_, said)| said.contains("revision of auth store is old") || said.contains("invalid auth token"))
}

/// Whether a watch may have been refused for an expired login: etcd takes such a one for nobody.
pub(super) fn may_be_old_login(reason: &str) -> bool {
    ["permission denied", "invalid auth token", "revision of auth store is old"]
        .iter()
        .any(|words| reason.contains(words))
}

pub(super) fn is_lease_gone(error: &etcd_client::Error) -> bool {
    status(error).is_some_and(|(_, said)| said.contains("requested lease not found"))
}

/// The error with its causes: a failed handshake says why only there.
pub(super) fn text(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else { return error.to_string() };
    let mut text = status.message().to_string();
    let mut source = status.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

/// The error for a store that cannot be reached: finds out what each endpoint does.
pub(super) async fn unreachable(endpoints: &[String], why: &str) -> Error {
    let causes = futures::future::join_all(endpoints.iter().map(|endpoint| probe(endpoint))).await;
    let causes = endpoints.iter().zip(causes).map(|(endpoint, cause)| format!("{endpoint}: {cause}"));
    let is_tls = endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
    let advice = TLS_ADVICE
        .iter()
        .filter(|_| is_tls)
        .find(|(words, _)| why.contains(words))
        .map_or("check that etcd runs there, ETCD_ENDPOINTS, and the network between", |(_, advice)| advice);
    Error::Unavailable(format!("cannot reach etcd: {why} ({}); {advice}", causes.collect::<Vec<_>>().join("; ")))
}

async fn probe(endpoint: &str) -> String {
    let address = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).split('/').next().unwrap_or_default();
    match timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) if endpoint.starts_with("https://") => {
            "the port is open: the TLS files or the server's certificate may not fit, or etcd has no leader".into()
        }
        Ok(Ok(_)) => "the port is open: it may speak TLS (https://), be no etcd, or have no leader".into(),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "no answer to TCP".into(),
    }
}

fn describe(endpoints: &[String]) -> String {
    format!("etcd {}", endpoints.join(","))
}

fn status(error: &etcd_client::Error) -> Option<(i32, &str)> {
    match error {
        etcd_client::Error::GRpcStatus(status) => Some((status.code() as i32, status.message())),
        _ => None,
    }
}

/// Whether etcd itself, or its gRPC server, said it; everything else was made on the way.
fn is_etcds(said: &str) -> bool {
    said.starts_with("etcdserver:") || said.starts_with("auth:") || said.contains("message larger than max")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (code, words; whether another member may do better; whether this one certainly did not take it; nor apply it)
    #[test]
    fn what_a_failed_write_may_have_done() {
        use tonic::Code;
        let rows = [
            (Code::Unavailable, "etcdserver: no leader", true, true, true),
            (Code::Unavailable, "etcdserver: rpc not supported for learner", true, true, true),
            (Code::Unavailable, "etcdserver: request timed out", true, false, false),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", false, false, false),
            (Code::Unknown, "etcdserver: mvcc: database space exceeded", false, false, false),
            (Code::ResourceExhausted, "etcdserver: too many requests", false, false, true),
            (Code::InvalidArgument, "etcdserver: request is too large", false, false, true),
            (Code::Unknown, "etcdserver: permission denied", false, false, true),
            (Code::Unavailable, "connection reset: no leader", true, false, false),
        ];
        for (code, words, is_members_row, is_not_taken_row, is_not_applied_row) in rows {
            let error = etcd_client::Error::GRpcStatus(tonic::Status::new(code, words));
            assert_eq!(is_members(&error), is_members_row, "{words}");
            assert_eq!(is_not_taken(&error), is_not_taken_row, "{words}");
            assert_eq!(is_not_applied(&error), is_not_applied_row, "{words}");
        }
    }
}
