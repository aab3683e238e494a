//! `tortie-ipam`: gives a container addresses out of Tortie's pools, under the handle `<network>.<container>`.
//!
//! felix of this node is asked first: it writes together what many plugins ask at once. When it does not run, does not answer in time or
//! cannot say what became of a request, the plugin does the same on the store. That doubles nothing: a handle that has its addresses
//! keeps them, and each transaction is conditional on the handle.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::Key;
use api::ipam::attr;
use datastore::DynStore;
use ipam::Ipam;
use ipam::wire::{
    ASSIGN_PATH, AssignCall, Assigned, Failure, PLUGIN_WAIT, RELEASE_PATH, ReleaseCall, Released, Verdict,
};
use ipnet::IpNet;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::gc;
use crate::plugin::{not_now, not_ready, open_store};
use crate::program::Call;
use crate::protocol::{AddResult, Attachment, Command, Error, ResultIp, code};
use crate::workload::Workload;

/// Runs one call.
///
/// # Errors
/// As the runtime shall see them.
pub async fn run(call: Call) -> Result<Option<Value>, Error> {
    match call.command {
        Command::Add => add(&call).await.map(|r| Some(json!(r))),
        Command::Del => del(&call).await.map(|()| None),
        Command::Check => check(&call, open_store(&call.conf).await?).await.map(|()| None),
        Command::Status => ready(&call).await.map(|()| None),
        Command::Gc => gc::addresses(&call).await.map(|()| None),
        Command::Version => unreachable!("answered before the configuration is read"),
    }
}

async fn ready(call: &Call) -> Result<(), Error> {
    let unavailable = |e: datastore::Error| Error::new(code::NOT_AVAILABLE, "cannot open the datastore").because(e);
    let store = call.conf.store()?.open().await.map_err(unavailable)?;
    store.get(&Key::IpamConfig).await.map(drop).map_err(unavailable)
}

async fn add(call: &Call) -> Result<AddResult, Error> {
    let attachment = call.attachment()?;
    let node = call.conf.node()?;
    let workload = Workload::new(node.clone(), &attachment);
    let mut attributes = BTreeMap::from([(attr::NODE.to_string(), node.clone())]);
    if let Some(pod) = &workload.pod {
        attributes.insert(attr::POD.into(), pod.clone());
        attributes.insert(attr::NAMESPACE.into(), workload.namespace.clone());
    }
    let wanted = wanted_address(&attachment)?;
    let conf = call.conf.ipam.clone().unwrap_or_default();
    let number = |name: &str, value: &Option<String>, default| is_on(name, value.as_deref(), default).map(usize::from);
    let mut request = AssignCall {
        node,
        handle: Workload::handle(&call.conf.name, &attachment.container_id),
        attributes,
        namespace: Some(workload.namespace),
        addresses: wanted.into_iter().collect(),
        ..AssignCall::default()
    };
    if wanted.is_none() {
        request.num_v4 = number("assign_ipv4", &conf.assign_ipv4, true)?;
        request.num_v6 = number("assign_ipv6", &conf.assign_ipv6, false)?;
        request.ipv4_pools = conf.ipv4_pools;
        request.ipv6_pools = conf.ipv6_pools;
    }
    let assigned: Assigned = match ask_felix(call, ASSIGN_PATH, &request).await? {
        Some(assigned) => assigned,
        None => assign_alone(call, request.clone()).await?,
    };
    let asked = request.num_v4 + request.num_v6 + request.addresses.len();
    if assigned.message.is_some() || asked == 0 || assigned.addresses.is_empty() {
        // One family of two is no success: what was given goes back (Calico `cni-plugin/pkg/ipamplugin`).
        release(call, request.node, request.handle).await?;
        let reason = assigned.message.unwrap_or_else(|| "assign_ipv4 and assign_ipv6 are both off".into());
        return Err(Error::new(code::NO_ADDRESS, "failed to request IP addresses").because(reason));
    }
    let ip = |a: &IpNet| ResultIp { version: None, address: IpNet::from(a.addr()), gateway: None, interface: None };
    let result = AddResult { ips: assigned.addresses.iter().map(ip).collect(), ..Default::default() };
    Ok(result.in_version(&call.conf.cni_version))
}

async fn del(call: &Call) -> Result<(), Error> {
    let attachment = call.attachment()?;
    let handle = Workload::handle(&call.conf.name, &attachment.container_id);
    // Without a name of the node, felix is not asked.
    let node = call.conf.node().unwrap_or_default();
    let released = release(call, node, handle.clone()).await?;
    tracing::info!(handle, ?released, "addresses released");
    Ok(())
}

async fn release(call: &Call, node: String, handle: String) -> Result<Vec<IpAddr>, Error> {
    let request = ReleaseCall { node, handle };
    if let Some(Released { addresses }) = ask_felix(call, RELEASE_PATH, &request).await? {
        return Ok(addresses);
    }
    let ipam = Ipam::new(open_store(&call.conf).await?).heeding_lock();
    ipam.release_by_handle(&request.handle).await.map_err(|e| not_now(e, "cannot release the addresses"))
}

/// The answer of felix; `None` when the plugin is to do it alone.
///
/// # Errors
/// That the request cannot be met, whoever is asked.
async fn ask_felix<T: Serialize, R: DeserializeOwned>(call: &Call, path: &str, body: &T) -> Result<Option<R>, Error> {
    let socket = call.conf.felix_socket();
    let reply = match tokio::time::timeout(PLUGIN_WAIT, status::post_json(&socket, path, body)).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => {
            tracing::debug!(%error, "felix is not asked");
            return Ok(None);
        }
        Err(_) => {
            tracing::warn!(socket = %socket.display(), "felix does not answer; the plugin goes on without it");
            return Ok(None);
        }
    };
    if reply.status == 200 {
        // What another version of felix answers is not known to this one.
        return Ok(serde_json::from_slice(&reply.body).ok());
    }
    let failure: Failure = serde_json::from_slice(&reply.body).unwrap_or_default();
    match Verdict::of_status(reply.status) {
        Verdict::TryAgain => {
            tracing::debug!(reply.status, failure.error, "felix cannot say; the plugin goes on without it");
            Ok(None)
        }
        verdict => Err(refused(verdict, &failure.error)),
    }
}

/// Does by itself what felix does not. Where that is because of the lock, the words are the plugin's.
async fn assign_alone(call: &Call, request: AssignCall) -> Result<Assigned, Error> {
    let ipam = Ipam::new(open_store(&call.conf).await?).heeding_lock();
    let outcome = async { ipam.ensure_assigned(&ipam.resolve(request).await?).await };
    outcome.await.map(Assigned::from).map_err(no_address)
}

/// Every address of the previous result must be this container's.
async fn check(call: &Call, store: DynStore) -> Result<(), Error> {
    let attachment = call.attachment()?;
    let handle = Workload::handle(&call.conf.name, &attachment.container_id);
    let ipam = Ipam::new(store);
    for ip in call.conf.prev_result.iter().flat_map(|r| &r.ips) {
        let addr = ip.address.addr();
        let info = ipam.ip_info(addr).await.map_err(no_address)?;
        if info.and_then(|i| i.handle).as_deref() != Some(&handle) {
            return Err(Error::new(code::CHECK_FAILED, format!("address {addr} is not assigned to {handle}")));
        }
    }
    Ok(())
}

/// `IP` of `CNI_ARGS`.
fn wanted_address(attachment: &Attachment) -> Result<Option<IpAddr>, Error> {
    let parse = |text: &String| {
        text.parse().map_err(|e| Error::new(code::INVALID_ENVIRONMENT, format!("IP={text} in CNI_ARGS")).because(e))
    };
    attachment.args.get("IP").map(parse).transpose()
}

/// Calico's switches are texts.
fn is_on(name: &str, value: Option<&str>, default: bool) -> Result<bool, Error> {
    match value {
        None | Some("") => Ok(default),
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(Error::new(
            code::INVALID_CONFIG,
            format!("ipam.{name} is \"{other}\"; it must be \"true\" or \"false\""),
        )),
    }
}

fn no_address(e: ipam::Error) -> Error {
    match e {
        ipam::Error::Locked => not_ready(),
        e => refused(Verdict::of(&e), e.to_string().trim()),
    }
}

fn refused(verdict: Verdict, reason: &str) -> Error {
    let code = match verdict {
        Verdict::BadRequest => code::INVALID_CONFIG,
        Verdict::NoAddress => code::NO_ADDRESS,
        Verdict::TryAgain => code::TRY_AGAIN_LATER,
    };
    Error::new(code, "failed to request IP addresses").because(reason)
}

#[cfg(test)]
mod tests {
    use api::meta::WithSpec;
    use api::node::{ClusterInformation, ClusterInformationSpec};
    use api::{IpPool, IpPoolSpec, Metadata, Node, NodeSpec};
    use datastore::typed;

    use super::*;
    use crate::protocol::NetConf;

    /// felix does not run, answers what it cannot say, or does not know the request: the plugin has its address all the same.
    #[tokio::test]
    async fn without_felix_the_plugin_goes_to_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let conf = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "tortie-ipam", "nodename": "n",
            "run_dir": directory.path(), "datastore_type": "sqlite", "sqlite_path": directory.path().join("tortie.db"),
        });
        let conf = NetConf::parse(conf.to_string().as_bytes()).unwrap();
        let call = Call { command: Command::Add, conf, stdin: vec![] };
        let store = open_store(&call.conf).await.unwrap();
        let node = Node::new(Metadata::named("n"), WithSpec { spec: NodeSpec::default(), status: None });
        typed::create(store.as_ref(), &node).await.unwrap();
        let pool = WithSpec { spec: IpPoolSpec::new("10.0.0.0/24".parse().unwrap()), status: None };
        typed::create(store.as_ref(), &IpPool::new(Metadata::named("p"), pool)).await.unwrap();
        let request = AssignCall { node: "n".into(), handle: "net.1".into(), num_v4: 1, ..AssignCall::default() };
        let asked = ask_felix::<_, Assigned>(&call, ASSIGN_PATH, &request).await.unwrap();
        assert_eq!(asked, None, "no socket");
        let alone = assign_alone(&call, request.clone()).await.unwrap();
        assert_eq!(alone.addresses.len(), 1);
        assert_eq!(assign_alone(&call, request.clone()).await.unwrap(), alone, "asked again");

        let answers = axum::Router::new().route(
            ASSIGN_PATH,
            axum::routing::post(|| async { (axum::http::StatusCode::CONFLICT, r#"{"error":"full"}"#) }),
        );
        let server = status::serve(directory.path(), "felix", answers).await.unwrap();
        let error = ask_felix::<_, Assigned>(&call, ASSIGN_PATH, &request).await.unwrap_err();
        assert_eq!((error.code, error.details.as_str()), (code::NO_ADDRESS, "full"));
        let asked = ask_felix::<_, Released>(&call, RELEASE_PATH, &request).await.unwrap();
        assert_eq!(asked, None, "an older felix, or one of services alone");
        drop(server);
        let lock = |ready| {
            let spec = ClusterInformationSpec { datastore_ready: Some(ready), ..ClusterInformationSpec::default() };
            ClusterInformation::new(Metadata::named("default"), WithSpec { spec, status: None })
        };
        typed::apply(store.as_ref(), &lock(false)).await.unwrap();
        let refused = [
            assign_alone(&call, AssignCall { handle: "net.2".into(), ..request.clone() }).await.unwrap_err(),
            release(&call, "n".into(), "net.1".into()).await.unwrap_err(),
            run(Call { command: Command::Gc, conf: call.conf.clone(), stdin: vec![] }).await.unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.code, code::TRY_AGAIN_LATER, "{error:?}");
            assert!(error.msg.contains("not ready"), "{error:?}");
        }
        typed::apply(store.as_ref(), &lock(true)).await.unwrap();
        assert_eq!(release(&call, "n".into(), "net.1".into()).await.unwrap(), [alone.addresses[0].addr()]);
    }
}
